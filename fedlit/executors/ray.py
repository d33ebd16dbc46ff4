"""The executor that runs jobs in actors of Ray.

Ray runs on this machine, or on a cluster. Results are bit-identical to those of `inline`. The extra `ray` is needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Literal

from fedlit.core.errors import ConfigError, did_you_mean, raise_errors, require, require_at_least
from fedlit.executors.executor import Execute, Executor, Phases, Worker
from fedlit.executors.inline import torch_settings, torch_threads
from fedlit.executors.processes import fall_back, makespan
from fedlit.executors.resources import available_cores
from fedlit.executors.vectorized.groups import group_jobs
from fedlit.executors.vectorized.vectorized import Vectorized

if TYPE_CHECKING:
    import torch

START_S = 15.0
"""Seconds in which Ray and its actors start; measured values are 6 to 40."""


@dataclass(frozen=True)
class Ray(Executor):
    """Runs jobs in actors of Ray that live for the whole run.

    A lost actor is replaced as soon as the cluster has room for it; until then the run continues with fewer.

    Args:
        address: `HOST:PORT` of a cluster, or `auto` for that of this machine; None starts Ray on this machine for the run.
        workers: number of actors; `auto` makes one for each core of the cluster, or as many as its GPUs have room for.
        threads: torch threads of each actor, >= 1; results with one and with two threads differ in the last bits.
        gpus: GPUs that an actor reserves, >= 0; 0.25 puts four actors on a GPU.
        wall_timeout_s: seconds, > 0, after which an actor that gives no answer is replaced; None for never.
        group_size: largest number of clients, >= 1, that train as one stacked model: see `Vectorized`. None trains clients one
            by one.
    """

    address: str | None = None
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    gpus: float = 0.0
    wall_timeout_s: float | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        workers, timeout = self.workers, self.wall_timeout_s
        hint = did_you_mean(workers, ["auto"])
        word_error = require(workers == "auto", "workers", workers, "must be auto or a number", hint)
        raise_errors(
            word_error if isinstance(workers, str) else require_at_least("workers", workers),
            require_at_least("threads", self.threads),
            require_at_least("group_size", 1 if self.group_size is None else self.group_size),
            require(self.gpus >= 0, "gpus", self.gpus, "must be at least 0"),
            require(timeout is None or timeout > 0, "wall_timeout_s", timeout, "must be greater than 0, or null"),
        )
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "_target_", "fedlit.executors.Ray", "needs Ray", "install it by pip install 'fedlit[ray]'"
            )

    @property
    def has_worker_processes(self) -> bool:
        """True: clients train in actors."""
        return True

    @property
    def has_common_key(self) -> bool:
        """False: no key passes between machines."""
        return False

    @property
    def timeout_s(self) -> float | None:
        """Seconds until an actor without an answer is replaced; None: never."""
        return self.wall_timeout_s

    def estimate_seconds(self, rounds: Sequence[Phases], device: torch.device) -> float:
        """Return the estimated seconds of a run's jobs and of the start.

        With `workers=auto` the estimate takes the cores of this machine.
        """
        parallel = available_cores() if isinstance(self.workers, str) else self.workers
        return START_S + sum(makespan(jobs, parallel) for phases in rounds for jobs in phases)

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Start actors, yield the function that runs jobs, end the actors.

        If the worker cannot be sent to another process, its jobs run in this process, and a warning is logged.
        """
        with torch_threads(self.threads), ExitStack() as stack:
            if self.group_size is None:
                yield self._start(worker, stack)
            else:
                size, execute = self.group_size, self._start(worker.vectorize(), stack)
                yield lambda jobs, state: execute(group_jobs(jobs, size), state)

    def check_worker(self, worker: Worker) -> list[ConfigError]:
        """Errors of clients that cannot train as a stack."""
        return [] if self.group_size is None else Vectorized(self.group_size).check_worker(worker)

    def stack_size(self, worker: Worker) -> int | None:
        """Largest number of clients that train as one stacked model."""
        return self.group_size

    def _start(self, worker: Worker, stack: ExitStack) -> Execute:
        import torch

        from fedlit.executors.cluster.actors import ActorPool
        from fedlit.executors.cluster.connection import connected
        from fedlit.executors.pool.transport import serialize_worker

        try:
            with TemporaryFile(prefix="fedlit-") as file:
                content = serialize_worker(worker.on_device(torch.device("cpu")), file)
                file.seek(0)
                large = file.read()
        except Exception as error:  # user code decides what pickling raises
            return fall_back(worker, f"{type(error).__name__}: {error}")
        wanted = None if isinstance(self.workers, str) else self.workers
        stack.enter_context(connected(self.address, max(available_cores(), (wanted or 0) * self.threads)))
        pool = ActorPool(self.threads, self.gpus, self.wall_timeout_s, worker.merge)
        stack.callback(pool.close)
        pool.start(wanted, torch_settings(self.threads), content, large)
        return pool.execute
