"""The executor that trains groups of clients as one stacked model each.

Its sums round differently from those of the other executors: results agree to a tolerance. They do not depend on the number of
processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedlit.core.errors import ConfigError, ConfigErrors, raise_errors, require_at_least
from fedlit.executors.executor import Execute, Executor, Phases, Worker
from fedlit.executors.inline import Inline
from fedlit.executors.processes import Processes
from fedlit.executors.vectorized.groups import GROUP_SIZE, group_jobs

if TYPE_CHECKING:  # torch takes seconds to import, and the values of a configuration are checked without it
    import torch


@dataclass(frozen=True)
class Vectorized(Executor):
    """Trains groups of clients as one stacked model each.

    Args:
        group_size: largest number of clients in a group, >= 1; results depend on it in the last bits.
        workers: worker processes; 1 trains in this process, `auto` starts one for each core or GPU.
        threads: torch threads of each process, >= 1.
        per_gpu: worker processes on each GPU, >= 1.
        wall_timeout_s: seconds, > 0, after which a worker process that gives no answer is replaced; None for never.
    """

    group_size: int = GROUP_SIZE
    workers: int | Literal["auto"] = 1
    threads: int = 1
    per_gpu: int = 1
    wall_timeout_s: float | None = None

    def __post_init__(self) -> None:
        raise_errors(require_at_least("group_size", self.group_size))
        self._make_processes()

    def _make_processes(self) -> Processes:
        return Processes(self.workers, self.threads, self.per_gpu, self.wall_timeout_s)

    def _make_inner(self) -> Executor:
        return Inline(self.threads) if self.workers == 1 else self._make_processes()

    def prepare(self) -> None:
        """Prepare worker processes: see `Processes.prepare`."""
        self._make_inner().prepare()

    @property
    def has_worker_processes(self) -> bool:
        """True if clients train in worker processes."""
        return self.workers != 1

    @property
    def timeout_s(self) -> float | None:
        """Seconds until a worker process without an answer is replaced; None: never."""
        return self.wall_timeout_s if self.has_worker_processes else None

    def check_worker(self, worker: Worker) -> list[ConfigError]:
        """Errors of a worker whose clients cannot train as a stack."""
        try:
            worker.vectorize()
        except (ConfigError, ConfigErrors) as error:
            return error.errors
        return []

    def stack_size(self, worker: Worker) -> int:
        """Largest number of clients that train as one stacked model."""
        return self.group_size

    def estimate_seconds(self, rounds: Sequence[Phases], device: torch.device) -> float:
        """Return the estimated seconds of a run's jobs.

        It is an upper bound: that of clients one by one.
        """
        return self._make_inner().estimate_seconds(rounds, device)

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Yield the function that runs jobs.

        Raises:
            ConfigErrors: if the worker's clients cannot train as a stack.
        """
        with self._make_inner().open(worker.vectorize(), rounds) as execute:
            yield lambda jobs, state: execute(group_jobs(jobs, self.group_size), state)
