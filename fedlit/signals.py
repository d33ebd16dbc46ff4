"""Signals that ask a run to stop. The run owns them from its first round to its last."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A scheduler's wish, the user's, and SLURM's warning that time is up."""


class Stopped(BaseException):
    """The run was asked to stop. No Exception, so that nothing takes it for a client's failure.

    Args:
        number: of the signal.
        found: what handled that signal before the run.
    """

    def __init__(self, number: int, found: Any = None) -> None:
        self.number, self.found = number, found
        super().__init__(signal.Signals(number).name)

    @property
    def status(self) -> int:
        """The exit status: 130 for Ctrl-C, 143 otherwise."""
        return 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)


class Wish:
    """Whether a signal came; `heed` raises Stopped if one did."""

    def __init__(self) -> None:
        self.stopped: Stopped | None = None

    def heed(self) -> None:
        """To be called between rounds: what a handler raises is lost where Python ignores exceptions, as in a destructor."""
        if self.stopped is not None:
            raise self.stopped


@contextmanager
def stoppable() -> Iterator[Wish]:
    """In the block the first signal raises Stopped wherever the program is, and a second one ends the process at once. The
    block ends with Stopped, whatever was made of it on its way. The handlers that were found are put back. Outside the main
    thread signals are left alone."""
    wish, owner = Wish(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    found = {number: signal.getsignal(number) for number in ASKING}

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked process, such as a DataLoader's: it does as it would without us
            raise KeyboardInterrupt
        if wish.stopped is not None:
            os._exit(wish.stopped.status)
        wish.stopped = Stopped(number, found[signal.Signals(number)])
        raise wish.stopped

    for number in ASKING:
        signal.signal(number, stop)
    try:
        yield wish
    except BaseException as error:
        if wish.stopped in (None, error):
            raise
        raise wish.stopped from error  # such as Lightning's own SystemExit after code that caught ours
    finally:
        for number, handler in found.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
