"""A worker process: does the jobs that come through a socket until it is closed. It is run as a file, so that it has looked
after its end before anything heavy is imported."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any


def main() -> None:
    """Reads what it needs, then a job after the other. What a job raises goes back as it is, with its traceback."""
    descriptor, parent, path = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    _die_with(parent)
    line, me = socket.socket(fileno=descriptor), os.getpid()
    os.register_at_fork(after_in_child=lambda: _of_a_loader(line, me))
    sys.path[:] = path
    gc.disable()  # while all is imported
    from fedlit.executors.transport import decode_message, encode_message, receive, send

    try:
        settings, content = decode_message(receive(line))
        try:
            worker, state = _worker(settings, content), None
        except Exception as error:  # what cannot be found here, such as a class of the script that was run
            send(line, encode_message(("failed", f"{type(error).__name__}: {error}")))
            return
        gc.freeze()
        gc.enable()
        send(line, encode_message(("ready", None)))
        while True:
            job, has_state = decode_message(receive(line))
            state = decode_message(receive(line)) if has_state else state
            send(line, _answer(worker, job, state))
    except (EOFError, OSError):
        return  # the parent has no more jobs, or is gone


def _worker(settings: dict[str, Any], content: bytes) -> Any:
    import torch

    from fedlit.executors.transport import deserialize_worker

    for name, value in settings.items():
        getattr(torch, name)(value)
    worker = deserialize_worker(content)
    return worker.placed(worker.device)


def _answer(worker: Any, job: Any, state: Any) -> Any:
    from fedlit.executors.transport import decode_message, encode_message

    try:
        return encode_message(("done", worker(job, state)))
    except Exception as error:
        shown = traceback.format_exc()
        try:
            raised = encode_message(("raised", (error, shown)))
            decode_message(raised)
            return raised
        except Exception:  # an error that cannot be pickled, or not be made again
            return encode_message(("raised", (RuntimeError(f"{type(error).__name__}: {error}"), shown)))


def _of_a_loader(line: socket.socket, parent: int) -> None:
    """A process that loads samples for this one must not seem to be it, nor live longer."""
    line.close()
    _die_with(parent)


def _die_with(parent: int) -> None:
    """On Linux the kernel ends this process when its parent is gone, however that went."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # noqa: N806
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
