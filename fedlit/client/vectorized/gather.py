"""Client rules in threads, of which one runs at a time.

Each rule runs until it asks for local training. Then the calls of all rules are answered together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from fedlit.client.fit.call import FitCall, FitOutcome, LocalWork

T = TypeVar("T")
FitTogether = Callable[[Sequence[FitCall]], Sequence[FitOutcome | Exception]]


class Cancelled(BaseException):
    """The end of a rule whose group stops early.

    It is not an Exception, so that no client rule catches it.
    """


class ClientRule(Generic[T]):
    """One client's rule in a thread of its own.

    The thread and its caller take turns: only one of them runs at a time.

    Args:
        rule: function that runs the rule; it gets this object as its `LocalWork`.
    """

    def __init__(self, rule: Callable[[LocalWork], T]) -> None:
        self._rule, self._own_turn, self._callers_turn = rule, threading.Lock(), threading.Lock()
        self._own_turn.acquire()
        self._callers_turn.acquire()
        self._is_cancelled = False
        self._answer: Any = None
        self.request: FitCall | Callable[[], Any] | None = None
        self.is_done = False
        self.result: T | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fedlit client rule", daemon=True)
        self._thread.start()

    def resume(self, answer: Any = None) -> None:
        """Run the rule until its next request or its end.

        Args:
            answer: answer to the last request; an exception is raised in the rule.
        """
        self._answer, self.request = answer, None
        self._own_turn.release()
        self._callers_turn.acquire()

    def cancel(self) -> None:
        """End the rule, and its thread."""
        self._is_cancelled = True
        while not self.is_done:
            self.resume()
        self._thread.join()

    def fit(self, call: FitCall) -> FitOutcome:
        """Train a client: see `LocalWork`."""
        return self._ask(call)

    def measure(self, function: Callable[[], Any]) -> Any:
        """Return the result of a function that uses the module: see `LocalWork`."""
        return self._ask(function)

    def _ask(self, request: FitCall | Callable[[], Any]) -> Any:
        self.request = request
        self._callers_turn.release()
        self._own_turn.acquire()
        if self._is_cancelled:
            raise Cancelled
        answer, self._answer = self._answer, None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self) -> None:
        self._own_turn.acquire()
        try:
            if not self._is_cancelled:
                self.result = self._rule(self)
        except BaseException as error:  # the caller raises it
            self.error = error
        finally:
            self.is_done = True
            self._callers_turn.release()


def run_together(rules: Sequence[Callable[[LocalWork], T]], fit: FitTogether) -> Iterator[T]:
    """Run client rules, and answer their calls of `fit` together.

    Everything but the rules themselves runs in the thread of the caller. Each result is yielded as soon as those before it are,
    so that few of them are in memory.

    Args:
        rules: functions that run one client's rule each.
        fit: trains several clients; it returns an outcome or an exception for each call.

    Yields:
        the results in the order of the rules.

    Raises:
        BaseException: any exception that a rule does not catch; the other rules end.
    """
    clients = [ClientRule(rule) for rule in rules]
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
