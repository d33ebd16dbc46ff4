"""The program of a worker process.

A worker process runs the jobs that it receives until its socket is closed. The pool runs this file as a script, so that
the process arranges its own end before it imports anything heavy.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import Any


def main() -> None:
    """Run the program of a new process."""
    run_jobs(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))


def run_jobs(descriptor: int, parent: int, path: list[str]) -> None:
    """Build the worker, then run one job after the other.

    An exception of a job is sent back with its traceback.

    Args:
        descriptor: descriptor of this process's socket.
        parent: id of the parent process.
        path: value of `sys.path`.
    """
    end_with_parent(parent)
    connection, own_pid = socket.socket(fileno=descriptor), os.getpid()
    os.register_at_fork(after_in_child=lambda: _detach_fork(connection, own_pid))
    sys.path[:] = path
    gc.disable()  # during the imports
    from fedlit.executors.pool.transport import decode_message, encode_message, receive, send

    try:
        settings, content = decode_message(receive(connection))
        try:
            worker, state = _make_worker(settings, content), None
        except Exception as error:  # for instance a class of the main script, which cannot be imported here
            send(connection, encode_message(("failed", f"{type(error).__name__}: {error}")))
            return
        gc.freeze()
        gc.enable()
        send(connection, encode_message(("ready", None)))
        while True:
            job, has_new_state = decode_message(receive(connection))
            state = decode_message(receive(connection)) if has_new_state else state
            send(connection, _run_job(worker, job, state))
    except (EOFError, OSError):
        return  # the parent has no more jobs, or has ended


def _make_worker(settings: dict[str, Any], content: bytes) -> Any:
    import torch

    from fedlit.executors.pool.transport import deserialize_worker

    for name, value in settings.items():
        getattr(torch, name)(value)
    worker = deserialize_worker(content)
    return worker.on_device(worker.device)


def _run_job(worker: Any, job: Any, state: Any) -> Any:
    from fedlit.executors.pool.joining import run_job
    from fedlit.executors.pool.transport import decode_message, encode_message

    try:
        return encode_message(("done", run_job(worker, job, state)))
    except Exception as error:
        trace = traceback.format_exc()
        try:
            message = encode_message(("raised", (error, trace)))
            decode_message(message)
            return message
        except Exception:  # the exception cannot be pickled or unpickled
            return encode_message(("raised", (RuntimeError(f"{type(error).__name__}: {error}"), trace)))


def _detach_fork(connection: socket.socket, parent: int) -> None:
    """Keep a forked DataLoader worker from outliving this process.

    The forked worker does not hold the socket open either.
    """
    connection.close()
    end_with_parent(parent)


def end_with_parent(parent: int) -> None:
    """Let the Linux kernel end this process when its parent ends.

    The way in which the parent ends does not matter.
    """
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # noqa: N806
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_malloc_options(environment: Mapping[str, str]) -> None:
    """Apply glibc settings of the environment to this process.

    glibc reads them only when a program starts.
    """
    options = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    for name, number in options.items():
        if name in environment and hasattr(ctypes.CDLL(None), "mallopt"):
            ctypes.CDLL(None).mallopt(number, int(environment[name]))


if __name__ == "__main__":
    main()
