"""TODO."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.5


@contextmanager
def reserve_gpu(at_once: int, per_gpu: int) -> Iterator[None]:
    """Waits for a GPU on which fewer than `per_gpu` jobs run, where several jobs run at the same time, and hides the others
    from this process for good: what it sees cannot be changed once it has used one."""
    with ExitStack() as stack:
        if at_once > 1:
            from fedlit.executors.resources import visible_gpus

            if names := [str(name) for name in visible_gpus()]:
                os.environ["CUDA_VISIBLE_DEVICES"] = stack.enter_context(_held(names, per_gpu))
        yield


@contextmanager
def _held(names: Sequence[str], per_gpu: int) -> Iterator[str]:
    place = Path(tempfile.gettempdir()) / f"fedlit-gpus-{os.getuid()}"
    place.mkdir(exist_ok=True)
    while True:
        for name, number in ((name, number) for number in range(per_gpu) for name in names):
            lock = FileLock(place / f"{name}.{number}", timeout=0)
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
