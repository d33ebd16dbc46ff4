"""Reservation of one GPU for each of the parallel jobs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.5
"""Seconds between two attempts to reserve a GPU."""


@contextmanager
def reserve_gpu(parallel_jobs: int, per_gpu: int) -> Iterator[None]:
    """Wait for a free GPU and hide the others from this process.

    The other GPUs stay hidden after the block: a process that has used a GPU cannot change the GPUs that it sees.

    Args:
        parallel_jobs: jobs that run at the same time; with 1 nothing is reserved.
        per_gpu: largest number of jobs on one GPU, >= 1.
    """
    with ExitStack() as stack:
        if parallel_jobs > 1:
            from fedlit.executors.resources import visible_gpus

            if names := [str(name) for name in visible_gpus()]:
                os.environ["CUDA_VISIBLE_DEVICES"] = stack.enter_context(_lock_gpu(names, per_gpu))
        yield


@contextmanager
def _lock_gpu(names: Sequence[str], per_gpu: int) -> Iterator[str]:
    """Lock one of a GPU's `per_gpu` places, and yield its name."""
    folder = Path(tempfile.gettempdir()) / f"fedlit-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        for name, number in ((name, number) for number in range(per_gpu) for name in names):
            lock = FileLock(folder / f"{name}.{number}", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                yield name
            finally:
                lock.release()
            return
        time.sleep(POLL_S)
