"""Client rules in threads, of which one runs at a time.

Each rule runs until it asks for local training. Then the calls of all rules are answered together.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

import torch

from fedlit.client.fit.call import FitCall, FitOutcome, LocalWork

T = TypeVar("T")
FitTogether = Callable[[Sequence[FitCall]], Sequence[FitOutcome | Exception]]


class Cancelled(BaseException):
    """The end of a rule whose group stops early.

    It is not an Exception, so that no client rule catches it.
    """


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


class ClientRule(Generic[T]):
    """One client's rule in a thread.

    Args:
        rule: function that runs the rule; it gets this object as its `LocalWork`.
        threads: threads for rules.
    """

    def __init__(self, rule: Callable[[LocalWork], T], threads: RuleThreads) -> None:
        self._rule, self._threads = rule, threads
        self._thread: RuleThread | None = None
        self._is_cancelled = False
        self._answer: Any = None
        self.request: FitCall | Callable[[], Any] | None = None
        self.is_done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def resume(self, answer: Any = None) -> None:
        """Run the rule until its next request or its end.

        Args:
            answer: answer to the last request; an exception is raised in the rule.
        """
        self._answer, self.request = answer, None
        if self._thread is None:
            self._thread = self._threads.take()
            self._thread.start(self._run)
        else:
            self._thread.resume()
        if self.is_done:
            self._threads.give_back(self._thread)

    def cancel(self) -> None:
        """End the rule."""
        self._is_cancelled = True
        while self._thread is not None and not self.is_done:
            self.resume()

    def fit(self, call: FitCall) -> FitOutcome:
        """Train a client: see `LocalWork`."""
        return self._ask(call)

    def measure(self, function: Callable[[], Any]) -> Any:
        """Return the result of a function that uses the module: see `LocalWork`."""
        return self._ask(function)

    def _ask(self, request: FitCall | Callable[[], Any]) -> Any:
        assert self._thread is not None
        self.request = request
        self._thread.wait()
        if self._is_cancelled:
            raise Cancelled
        answer, self._answer = self._answer, None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self) -> None:
        try:
            self.result = self._rule(self)
        except BaseException as error:  # the caller raises it
            self.error = error
        finally:
            self.is_done = True


def run_together(rules: Sequence[Callable[[LocalWork], T]], fit: FitTogether, threads: RuleThreads) -> Iterator[T]:
    """Run client rules, and answer their calls of `fit` together.

    Everything but the rules themselves runs in the thread of the caller. Each result is yielded as soon as those before it are,
    so that few of them are in memory.

    Args:
        rules: functions that run one client's rule each.
        fit: trains several clients; it returns an outcome or an exception for each call.
        threads: threads for the rules.

    Yields:
        the results in the order of the rules.

    Raises:
        BaseException: any exception that a rule does not catch; the other rules end.
    """
    clients = [ClientRule(rule, threads) for rule in rules]
    done = _results(clients)
    try:
        for client in clients:
            _advance(client)
        yield from done()
        while waiting := [client for client in clients if not client.is_done]:
            calls = [client.request for client in waiting if isinstance(client.request, FitCall)]
            for client, outcome in zip(waiting, fit(calls), strict=True):
                _advance(client, outcome)
                yield from done()
    finally:
        for client in clients:
            client.cancel()


def _results(clients: Sequence[ClientRule[T]]) -> Callable[[], Iterator[T]]:
    """Return a function that yields the next results."""
    rest = deque(clients)

    def done() -> Iterator[T]:
        while rest and rest[0].is_done:
            client = rest.popleft()
            result, client.result = client.result, None
            yield result  # type: ignore[misc]

    return done


def _advance(client: ClientRule[Any], answer: Any = None) -> None:
    """Run a rule until it asks for a fit.

    Its other requests are answered at once.

    Raises:
        BaseException: an exception that the rule does not catch.
    """
    client.resume(answer)
    while not client.is_done and not isinstance(client.request, FitCall):
        client.resume(_measure(client.request))
    if client.error is not None:
        raise client.error


def _measure(function: Any) -> Any:
    try:
        return function()
    except Exception as error:  # of the client's code, for the rule
        return error
