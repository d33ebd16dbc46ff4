"""Signals that ask a run to stop.

The command handles these signals from its start to its end.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Sent by a scheduler, by Ctrl-C, and by SLURM before the time limit."""


class Interrupted(BaseException):
    """A signal asked the run to stop.

    The class is not an Exception, so that nothing treats a signal as a client's failure.

    Args:
        signal_number: number of the signal.
        previous_handler: handler of that signal before the run.

    Attributes:
        hint: text for the user on what to do next.
    """

    def __init__(self, signal_number: int, previous_handler: Any = None) -> None:
        self.signal_number, self.previous_handler = signal_number, previous_handler
        self.hint = "nothing was trained yet, so there is nothing to resume: run the command again"
        super().__init__(signal.Signals(signal_number).name)

    @property
    def status(self) -> int:
        """The exit status: 130 for Ctrl-C, 143 otherwise."""
        return 128 + (signal.SIGINT if self.signal_number == signal.SIGINT else signal.SIGTERM)


class StopRequest:
    """The request to stop that a signal makes.

    Attributes:
        interruption: the exception of the first signal; None before it.
    """

    def __init__(self) -> None:
        self.interruption: Interrupted | None = None

    def raise_if_set(self) -> None:
        """Raise Interrupted if a signal came.

        Call it between rounds: Python ignores exceptions of a signal handler in some places, such as a destructor.
        """
        if self.interruption is not None:
            raise self.interruption


class _SignalHandler:
    """The signal handler of a `handle_signals` block."""

    def __init__(self, request: StopRequest) -> None:
        self.request, self.process = request, os.getpid()
        self.previous_handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked process, such as a DataLoader's, behaves as without this handler
            raise KeyboardInterrupt
        if self.request.interruption is not None:
            os._exit(self.request.interruption.status)
        self.request.interruption = Interrupted(number, self.previous_handlers[signal.Signals(number)])
        raise self.request.interruption


@contextmanager
def handle_signals() -> Iterator[StopRequest]:
    """Raise Interrupted in the block when a signal comes.

    A second signal exits the process. After a signal the block always ends with Interrupted, also if code in it caught or
    replaced the exception. The previous handlers are restored. A nested block shares the handlers and the request of the outer
    block. Outside the main thread signals are not handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
        return
    handler = signal.getsignal(STOP_SIGNALS[0])
    if isinstance(handler, _SignalHandler) and handler.process == os.getpid():
        with _raise_interrupted(handler.request):
            yield handler.request
        return
    handler = _SignalHandler(StopRequest())
    for number in STOP_SIGNALS:
        signal.signal(number, handler)
    try:
        with _raise_interrupted(handler.request):
            yield handler.request
    finally:
        for number, previous in handler.previous_handlers.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextmanager
def _raise_interrupted(request: StopRequest) -> Iterator[None]:
    """Raise Interrupted instead of other exceptions if a signal came."""
    try:
        yield
    except BaseException as error:
        if request.interruption in (None, error):
            raise
        raise request.interruption from error  # such as the SystemExit that Lightning raises after it caught Interrupted


def clear_frames(error: BaseException | None) -> None:
    """Free the local variables of an error's tracebacks, also of its causes.

    A tensor on memory that torch does not own, such as a NumPy array's, crashes if it outlives the interpreter.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
