"""The executor that runs jobs in worker processes.

Its results are bit-identical to those of `inline`.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Literal

from fedlit.core.errors import did_you_mean, raise_errors, require, require_at_least
from fedlit.executors.executor import Execute, Executor, Phases, Worker
from fedlit.executors.inline import inline_execute, torch_settings, torch_threads
from fedlit.executors.pool.fork_server import fork_server, start_fork_server
from fedlit.executors.resources import available_cores, visible_gpus

if TYPE_CHECKING:  # torch takes seconds to import, and the values of a configuration are checked without it
    import torch

log = logging.getLogger(__name__)

START_S = 6.0
"""Seconds in which a process imports torch and Lightning on a core of its own; measured values are 5 to 7."""

FORKED_START_S = 0.5
"""Seconds in which a process that is forked from the fork server builds its worker."""


@dataclass(frozen=True)
class Processes(Executor):
    """Runs jobs in worker processes that live for the whole run.

    Args:
        workers: number of worker processes; `auto` starts one for each core, or `per_gpu` for each GPU if clients train
            on GPUs.
        threads: torch threads of each process, >= 1; results with one and with two threads differ in the last bits.
        per_gpu: worker processes on each GPU, >= 1.
        wall_timeout_s: seconds, > 0, after which a worker process that gives no answer is replaced; None for never.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    per_gpu: int = 1
    wall_timeout_s: float | None = None

    def __post_init__(self) -> None:
        workers, timeout = self.workers, self.wall_timeout_s
        hint = did_you_mean(workers, ["auto"])
        word_error = require(workers == "auto", "workers", workers, "must be auto or a number", hint)
        is_valid_timeout = timeout is None or timeout > 0
        raise_errors(
            word_error if isinstance(workers, str) else require_at_least("workers", workers),
            require_at_least("threads", self.threads),
            require_at_least("per_gpu", self.per_gpu),
            require(is_valid_timeout, "wall_timeout_s", timeout, "must be greater than 0, or null"),
        )

    @property
    def has_worker_processes(self) -> bool:
        """True: clients train in worker processes."""
        return True

    @property
    def timeout_s(self) -> float | None:
        """Seconds until a worker process without an answer is replaced; None: never."""
        return self.wall_timeout_s

    def parallel_jobs(self, device: torch.device) -> int:
        """Return the number of jobs that run at the same time."""
        count = len(self.gpus(device))
        return min(count, available_cores()) if device.type == "cpu" else count

    def prepare(self) -> None:
        """Start the fork server.

        Nothing happens if that is not safe, or if one worker process is enough.
        """
        if available_cores() > 1 or self.workers not in ("auto", 1):
            start_fork_server()

    def start_seconds(self, device: torch.device, start_s: float | None = None) -> float:
        """Return the seconds until all worker processes have started.

        Args:
            device: the device on which clients train.
            start_s: seconds in which a process starts on a core of its own; None for those of a new or a forked process.
        """
        if start_s is None:
            start_s = START_S if fork_server() is None else FORKED_START_S
        return start_s * -(-len(self.gpus(device)) // available_cores())

    def estimate_seconds(self, rounds: Sequence[Phases], device: torch.device) -> float:
        """Return the estimated seconds of a run's jobs and of the start."""
        parallel = self.parallel_jobs(device)
        jobs_s = sum(makespan(jobs, parallel) for phases in rounds for jobs in phases)
        return self.start_seconds(device) + jobs_s

    def gpus(self, device: torch.device) -> list[str | None]:
        """Return the GPU of each worker process, named as in CUDA_VISIBLE_DEVICES.

        Args:
            device: the device on which clients train; if it is not a CUDA device, each name is None.
        """
        gpus = visible_gpus() if device.type == "cuda" else [None]
        count = available_cores() if device.type == "cpu" else self.per_gpu * len(gpus)
        count = count if isinstance(self.workers, str) else self.workers
        return [gpus[number % len(gpus)] for number in range(count)]

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Start worker processes, yield the function that runs jobs, end the processes.

        If the worker cannot be sent to another process, its jobs run in this process, and a warning is logged.
        """
        with torch_threads(self.threads), ExitStack() as stack:
            yield self._start(worker, stack)

    def _start(self, worker: Worker, stack: ExitStack) -> Execute:
        import torch

        from fedlit.executors.pool.transport import encode_message, serialize_worker
        from fedlit.executors.pool.worker_pool import WorkerPool, WorkerStartError

        try:
            # The file has no name: it disappears when no process has it open any more.
            file = stack.enter_context(TemporaryFile(prefix="fedlit-"))  # noqa: SIM115
            content = serialize_worker(worker.on_device(torch.device("cpu")), file)
            pool = WorkerPool(file.fileno(), self.wall_timeout_s, worker.merge)
            stack.callback(pool.close)
            pool.start(encode_message((torch_settings(self.threads), content)), self.gpus(worker.device))
        except Exception as error:  # user code decides what pickling raises
            stack.close()
            is_start = isinstance(error, WorkerStartError)
            return fall_back(worker, str(error) if is_start else f"{type(error).__name__}: {error}")
        return pool.execute


def fall_back(worker: Worker, reason: str) -> Execute:
    """Return a function that runs jobs in this process; log the reason."""
    log.warning("this federation cannot be sent to a worker process, so it runs inline: %s", reason)
    return inline_execute(worker)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Return the seconds until all jobs are done.

    Each free worker takes the next job.

    Args:
        seconds: duration of each job, in the order of the jobs.
        workers: number of workers, >= 1.
    """
    free = [0.0] * workers
    for job in seconds:
        heapq.heapreplace(free, free[0] + job)
    return max(free)
