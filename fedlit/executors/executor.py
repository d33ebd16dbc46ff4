"""TODO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from fedlit.core.messages import Job, Result, ServerState

Execute = Callable[[Iterable[Job], ServerState], Iterator[Result]]


class Worker(Protocol):
    """Does one job, given what the clients are sent."""

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        ...

    def on_device(self, device: torch.device) -> Worker:
        """The same worker with its samples on a device."""
        ...

    def __call__(self, job: Job, state: ServerState) -> Result: ...


class Executor(Protocol):
    """Where jobs are done. Results come in the order of the jobs, and do not depend on the executor."""

    def open(self, worker: Worker, rounds: int) -> AbstractContextManager[Execute]:
        """A pool for the whole run; `rounds` are still to come, for an executor that weighs its start against the work."""
        ...
