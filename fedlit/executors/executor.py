"""The executor and the worker.

The executor decides where jobs run; the worker runs jobs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from fedlit.core.errors import ConfigError
from fedlit.core.messages import Job, PartialAggregate, Result, ServerState

if TYPE_CHECKING:
    import torch

Execute = Callable[[Iterable[Job], ServerState], Iterator[Result]]

Phases = Sequence[Sequence[float]]
"""Seconds of each job of a round, phase by phase; a phase begins when the last one has ended."""


class Worker(Protocol):
    """Runs one job at a time."""

    @property
    def device(self) -> torch.device:
        """The device on which clients train."""
        ...

    def on_device(self, device: torch.device) -> Worker:
        """Return the same worker with its samples on a device."""
        ...

    def vectorize(self, if_faster: bool = False) -> Worker:
        """Return the same worker, which trains clients together as one stack.

        Args:
            if_faster: True to refuse also what trains slower as a stack.

        Raises:
            ConfigErrors: if its clients cannot train so.
        """
        ...

    def merge(self, parts: Sequence[PartialAggregate]) -> PartialAggregate:
        """Return the partial aggregate of all parts, added left to right.

        One worker would have made the same partial aggregate.

        Args:
            parts: at least one partial aggregate, in the order of the clients.
        """
        ...

    def __call__(self, job: Job, state: ServerState) -> Result:
        """Run a job.

        Args:
            job: the clients to train, the split to evaluate, or the client whose loss is wanted.
            state: the server state before the round; executors pass it as the keyword `state`.
        """
        ...


class Executor(ABC):
    """Runner of jobs.

    Results come in the order of the jobs and do not depend on the executor.

    Attributes:
        threads: torch threads of each process that runs jobs; 1 by default.
    """

    threads: int = 1

    @abstractmethod
    def open(self, worker: Worker, rounds: int) -> AbstractContextManager[Execute]:
        """Return a context that yields the function that runs jobs.

        Args:
            worker: runs one job.
            rounds: rounds still to run; an executor may weigh the cost of its start against them.
        """

    def prepare(self) -> None:  # noqa: B027
        """Prepare a later `open`; by default nothing happens.

        The command calls it once in a run, after the imports and before the first operator, when this process can still be
        copied.
        """

    def check_worker(self, worker: Worker) -> list[ConfigError]:
        """Errors of a worker that does not suit; none by default."""
        return []

    def estimate_seconds(self, rounds: Sequence[Phases], device: torch.device) -> float:
        """Return the estimated seconds of a run's jobs.

        By default they run one by one.

        Args:
            rounds: the phases of each round.
            device: the device on which clients train.
        """
        return sum(sum(map(sum, phases)) for phases in rounds)

    @property
    def has_worker_processes(self) -> bool:
        """True if clients may train in worker processes; False by default."""
        return False

    @property
    def has_common_key(self) -> bool:
        """True if all workers share a key.

        This process does not read the key. It is True by default, as for a worker in this process: see `Vault`.
        """
        return True

    @property
    def timeout_s(self) -> float | None:
        """Seconds until a worker process without an answer is replaced.

        None, the default, means never.
        """
        return None

    def stack_size(self, worker: Worker) -> int | None:
        """Largest number of clients that train as one stacked model.

        None, the default, means that each client trains alone. Results depend on it in their last bits.
        """
        return None
