"""The executor that runs all jobs in this process, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from fedlit.core.errors import raise_errors, require_at_least
from fedlit.executors.executor import Execute, Executor, Worker


@dataclass(frozen=True)
class Inline(Executor):
    """Runs jobs in this process.

    Args:
        threads: torch threads, >= 1. Results with one and with two threads differ in the last bits, so the number is a
            setting and does not depend on the machine.
    """

    threads: int = 1

    def __post_init__(self) -> None:
        raise_errors(require_at_least("threads", self.threads))

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Yield the function that runs jobs; restore the number of threads afterwards."""
        with torch_threads(self.threads):
            yield inline_execute(worker)


def inline_execute(worker: Worker) -> Execute:
    """Return a function that runs jobs in this process.

    Its results are a `map`, so that no Python frame of ours stands between the loop over rounds and the worker.
    """
    return lambda jobs, state: map(partial(worker, state=state), jobs)


def torch_settings(threads: int) -> dict[str, object]:
    """Torch settings for a worker process, by the setter function's name.

    They are those of this process, apart from the number of threads.
    """
    import torch

    return {
        "set_num_threads": threads,
        "set_default_dtype": torch.get_default_dtype(),
        "set_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "set_deterministic_debug_mode": torch.get_deterministic_debug_mode(),
    }


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch threads of this process within the block.

    Every executor gives the server as many threads as its clients: the server's sums depend on the number too.
    """
    import torch  # here: it takes seconds, and the values of a configuration are checked without it

    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
