"""The actor that runs jobs on a node of a cluster."""

from __future__ import annotations

import gc
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any


class JobRunner:
    """Builds its worker once, then runs one job after the other.

    Its messages are those of `transport`, as lists of bytes and arrays of bytes.
    """

    def __init__(self) -> None:
        self._worker: Any = None
        self._state: Any = None
        self._state_number = -1

    def build(self, setup: Sequence[Any]) -> list[Any]:
        """Build the worker from `sys.path`, torch settings, the pickled worker, its file.

        The file has no name here, and the worker's large tensors are mapped from it.
        """
        import torch

        from fedlit.executors.pool.transport import deserialize_worker

        path, settings, content, large = setup
        sys.path += [folder for folder in path if folder not in sys.path]
        for name, value in settings.items():
            getattr(torch, name)(value)
        try:
            self._file = tempfile.TemporaryFile(prefix="fedlit-")  # noqa: SIM115
            self._file.write(large.data)
            self._file.flush()
            worker = deserialize_worker(content, self._file.fileno())
            self._worker = worker.on_device(worker.device)
        except Exception as error:  # for instance a class of the main script, which cannot be imported here
            return _to_arrays(("failed", f"{type(error).__name__}: {error}"))
        gc.freeze()
        return _to_arrays(("ready", None))

    def run(self, job: Sequence[Any], number: int, state: Sequence[Any]) -> list[Any]:
        """Run a job; return its result, or its exception with the traceback.

        Args:
            job: the message with the job.
            number: number of the server state.
            state: the message with the server state, read once for each number.
        """
        from fedlit.executors.pool.joining import run_job
        from fedlit.executors.pool.transport import decode_message

        if number != self._state_number:
            self._state = decode_message([bytearray(part) for part in state])
            self._state_number = number
        content = decode_message([bytearray(part) for part in job])
        try:
            return _to_arrays(("done", run_job(self._worker, content, self._state)))
        except Exception as error:
            trace = traceback.format_exc()
            try:
                answer = _to_arrays(("raised", (error, trace)))
                decode_message([bytearray(part) for part in answer])
                return answer
            except Exception:  # the exception cannot be pickled or unpickled
                return _to_arrays(("raised", (RuntimeError(f"{type(error).__name__}: {error}"), trace)))


def _to_arrays(content: Any) -> list[Any]:
    """A message as arrays of bytes, which Ray does not copy."""
    import numpy as np

    from fedlit.executors.pool.transport import encode_message

    return [np.frombuffer(part, np.uint8) for part in encode_message(content)]
