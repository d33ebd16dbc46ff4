"""Jobs in worker processes that live for the whole run. The results are those of `inline`, bit for bit."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Literal

import torch

from fedlit.core.errors import did_you_mean, raise_errors, require, require_at_least
from fedlit.executors.executor import Execute, Worker
from fedlit.executors.inline import torch_threads
from fedlit.executors.resources import available_cores, visible_gpus
from fedlit.executors.transport import encode_message, serialize_worker
from fedlit.executors.worker_pool import WorkerPool, WorkerStartError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """Runs jobs in processes of their own.

    Args:
        workers: processes; `auto` is one for each core, or `per_gpu` for each GPU where clients train on GPUs.
        threads: torch threads of each, >= 1; results differ in the last bits between one and two.
        per_gpu: processes on each GPU, >= 1.
        wall_timeout_s: seconds after which a job's worker is given up as hanging; None never gives one up.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    per_gpu: int = 1
    wall_timeout_s: float | None = None

    def __post_init__(self) -> None:
        given, timeout = self.workers, self.wall_timeout_s
        word = require(given == "auto", "workers", given, "must be auto or a number", did_you_mean(given, ["auto"]))
        raise_errors(
            word if isinstance(given, str) else require_at_least("workers", given),
            require_at_least("threads", self.threads),
            require_at_least("per_gpu", self.per_gpu),
            require(timeout is None or timeout > 0, "wall_timeout_s", timeout, "must be a number above 0, or null"),
        )

    def gpus(self, device: torch.device) -> list[str | None]:
        """For each process the GPU that it is to see, as CUDA_VISIBLE_DEVICES names it; None where clients train on another
        kind of device."""
        gpus = visible_gpus() if device.type == "cuda" else [None]
        count = available_cores() if device.type == "cpu" else self.per_gpu * len(gpus)
        count = count if isinstance(self.workers, str) else self.workers
        return [gpus[number % len(gpus)] for number in range(count)]

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Starts the processes, and ends them whichever way the block is left. What cannot be sent to another process is
        done in this one, with a warning."""
        with ExitStack() as stack:
            stack.enter_context(torch_threads(self.threads))
            file = stack.enter_context(
                TemporaryFile(prefix="fedlit-")
            )  # has no name: it is gone when nobody has it open
            pool = WorkerPool(file.fileno(), self.wall_timeout_s)
            stack.callback(pool.end)
            yield self._begun(pool, worker, file)

    def _begun(self, pool: WorkerPool, worker: Worker, file: IO[bytes]) -> Execute:
        try:
            content = serialize_worker(worker.on_device(CPU), file)
        except (pickle.PicklingError, AttributeError, TypeError, OSError) as error:
            return _inline(worker, error)
        try:
            pool.begin(encode_message((self._settings(), content)), self.gpus(worker.device))
        except (WorkerStartError, OSError) as error:
            pool.end()
            return _inline(worker, error)
        return pool.execute

    def _settings(self) -> dict[str, object]:
        """What this process has set in torch, by the name of the function that sets it."""
        return {
            "set_num_threads": self.threads,
            "set_default_dtype": torch.get_default_dtype(),
            "set_float32_matmul_precision": torch.get_float32_matmul_precision(),
            "set_deterministic_debug_mode": torch.get_deterministic_debug_mode(),
        }


def _inline(worker: Worker, error: Exception) -> Execute:
    why = f"{type(error).__name__}: {error}".removeprefix("CannotStart: ")
    log.warning("this federation cannot be sent to another process, and runs inline: %s", why)
    return lambda jobs, state: (worker(job, state) for job in jobs)
