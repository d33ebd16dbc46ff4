"""Signals that ask a run to stop. The command owns them from its beginning to its end."""

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
"""A scheduler's wish, the user's, and SLURM's warning that time is up."""


class Interrupted(BaseException):
    """The run was asked to stop. No Exception, so that nothing takes it for a client's failure.

    Args:
        number: of the signal.
        found: what handled that signal before the run.

    Attributes:
        then: what the user is told.
    """

    def __init__(self, number: int, found: Any = None) -> None:
        self.number, self.found = number, found
        self.then = "nothing was trained yet, and there is nothing to go on with: type the command again"
        super().__init__(signal.Signals(number).name)

    @property
    def status(self) -> int:
        """The exit status: 130 for Ctrl-C, 143 otherwise."""
        return 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)


class StopRequest:
    """Whether a signal came; `heed` raises Stopped if one did."""

    def __init__(self) -> None:
        self.stopped: Interrupted | None = None

    def raise_if_set(self) -> None:
        """To be called between rounds: what a handler raises is lost where Python ignores exceptions, as in a destructor."""
        if self.stopped is not None:
            raise self.stopped


class _Stop:
    """The handler of a block."""

    def __init__(self, wish: StopRequest) -> None:
        self.wish, self.owner = wish, os.getpid()
        self.found = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.owner:  # a forked process, such as a DataLoader's: it does as it would without us
            raise KeyboardInterrupt
        if self.wish.stopped is not None:
            os._exit(self.wish.stopped.status)
        self.wish.stopped = Interrupted(number, self.found[signal.Signals(number)])
        raise self.wish.stopped


@contextmanager
def handle_signals() -> Iterator[StopRequest]:
    """In the block the first signal raises Stopped wherever the program is, and a second one ends the process at once. The
    block ends with Stopped, whatever was made of it on its way. The handlers that were found are put back. A block inside
    another has its handlers and its wish. Outside the main thread signals are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield StopRequest()
        return
    stop = signal.getsignal(STOP_SIGNALS[0])
    if isinstance(stop, _Stop) and stop.owner == os.getpid():
        with _stopped_by(stop.wish):
            yield stop.wish
        return
    stop = _Stop(StopRequest())
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    try:
        with _stopped_by(stop.wish):
            yield stop.wish
    finally:
        for number, handler in stop.found.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _stopped_by(wish: StopRequest) -> Iterator[None]:
    """Whatever ends the block once a signal came, it ends with Stopped."""
    try:
        yield
    except BaseException as error:
        if wish.stopped in (None, error):
            raise
        raise wish.stopped from error  # such as Lightning's own SystemExit after code that caught ours


def clear_frames(error: BaseException | None) -> None:
    """Frees what an error's frames hold: what torch made of another's memory crashes if it outlives the interpreter."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
