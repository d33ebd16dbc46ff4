"""Threads that take turns with their caller, and are used again."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextvars import Context

import torch


class RuleThread:
    """A thread that runs one client rule after the other.

    The thread and its caller take turns: only one of them runs at a time.
    """

    def __init__(self) -> None:
        self._own_turn, self._callers_turn = threading.Lock(), threading.Lock()
        self._own_turn.acquire()
        self._callers_turn.acquire()
        self._task: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="fedlit client rule", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False after a fork of the process, which copies no threads."""
        return self._thread.is_alive()

    def start(self, task: Callable[[], None]) -> None:
        """Run a task until it waits or ends."""
        self._task = task
        self.resume()

    def resume(self) -> None:
        """Run the task until it waits again or ends."""
        self._own_turn.release()
        self._callers_turn.acquire()

    def wait(self) -> None:
        """Let the caller run until it resumes the task.

        The task itself calls this.
        """
        self._callers_turn.release()
        self._own_turn.acquire()

    def end(self) -> None:
        """End the thread, which has no task."""
        self._task = None
        if self.is_alive:
            self._own_turn.release()
            self._thread.join()

    def _run(self) -> None:
        self._own_turn.acquire()
        while self._task is not None:
            with torch.enable_grad():  # as in a new thread
                Context().run(self._task)
            self._task = None  # it keeps a client's tensors in memory
            self.wait()


class RuleThreads:
    """Threads for client rules, which later groups use again."""

    def __init__(self) -> None:
        self._idle: list[RuleThread] = []
        weakref.finalize(self, _end_all, self._idle)

    def __reduce__(self) -> tuple[type[RuleThreads], tuple[()]]:
        """Return the form for pickle: another process has threads of its own."""
        return RuleThreads, ()

    def take(self) -> RuleThread:
        """Return an idle thread, or a new one."""
        while self._idle:
            if (thread := self._idle.pop()).is_alive:
                return thread
        return RuleThread()

    def give_back(self, thread: RuleThread) -> None:
        """Keep a thread, whose task has ended, for a later rule."""
        self._idle.append(thread)

    def end(self) -> None:
        """End the idle threads."""
        _end_all(self._idle)


def _end_all(threads: list[RuleThread]) -> None:
    while threads:
        threads.pop().end()
