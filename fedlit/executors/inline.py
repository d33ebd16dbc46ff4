"""All jobs in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedlit.core.errors import raise_errors, require_at_least
from fedlit.executors.executor import Execute, Worker


@dataclass(frozen=True)
class Inline:
    """Runs jobs in this process.

    Args:
        threads: torch threads, >= 1. Results differ in the last bits between one and two, so it is a setting, not the
            machine's choice.
    """

    threads: int = 1

    def __post_init__(self) -> None:
        raise_errors(require_at_least("threads", self.threads))

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Yields what does the jobs; the number of threads is put back afterwards."""
        with torch_threads(self.threads):
            yield lambda jobs, state: (worker(job, state) for job in jobs)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many torch threads in this process; those before are put back afterwards. With every executor the server has as many
    as its clients, since its sums have bits too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
