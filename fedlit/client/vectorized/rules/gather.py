"""Client rules in threads, of which one runs at a time.

Each rule runs until it asks for local training. Then the calls of all rules are answered together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from fedlit.client.fit.call import FitCall, FitOutcome, LocalWork
from fedlit.client.vectorized.rules.rule_threads import RuleThread, RuleThreads

T = TypeVar("T")
Outcome = FitOutcome | Exception
Answer = Callable[[int, Outcome], None]
"""Takes the place of a call of `fit`, and its outcome or exception."""
FitTogether = Callable[[Sequence[FitCall], Answer], None]
"""Trains several clients; it answers each call once, some before it has trained the others."""


class Cancelled(BaseException):
    """The end of a rule whose group stops early.

    It is not an Exception, so that no client rule catches it.
    """


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
        self.error: BaseException | None = None
        self._result: T | None = None

    def resume(self, answer: Any = None) -> None:
        """Run the rule until its next request or its end.

        Args:
            answer: answer to the last request; an exception is raised in the rule.

        Raises:
            BaseException: an exception that the rule does not catch.
        """
        self._answer, self.request = answer, None
        if self._thread is None:
            self._thread = self._threads.take()
            self._thread.start(self._run)
        else:
            self._thread.resume()
        if self.is_done:
            self._threads.give_back(self._thread)
        if self.error is not None and not self._is_cancelled:
            raise self.error

    def cancel(self) -> None:
        """End the rule."""
        self._is_cancelled = True
        while self._thread is not None and not self.is_done:
            self.resume()

    def take_result(self) -> T:
        """Return the result, and keep nothing of it."""
        result, self._result = self._result, None
        return result  # type: ignore[return-value]

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
            self._result = self._rule(self)
        except BaseException as error:  # the caller raises it
            self.error = error
        finally:
            self.is_done = True


def run_together(
    rules: Sequence[Callable[[LocalWork], T]], fit: FitTogether, threads: RuleThreads, take: Callable[[T], None]
) -> None:
    """Run client rules, and answer their calls of `fit` together.

    Everything but the rules themselves runs in the thread of the caller. A rule goes on as soon as its call is answered, while
    others may still train, so that few models are in memory. What else it asks for waits until all have trained.

    Args:
        rules: functions that run one client's rule each.
        fit: trains several clients.
        threads: threads for the rules.
        take: gets the results in the order of the rules, each as soon as those before it are there.

    Raises:
        BaseException: any exception that a rule does not catch; the other rules end.
    """
    clients = [ClientRule(rule, threads) for rule in rules]
    rest = deque(clients)

    def take_results() -> None:
        while rest and rest[0].is_done:
            take(rest.popleft().take_result())

    try:
        for client in clients:
            client.resume()
        while waiting := _serve(clients, take_results):
            _fit_and_resume(waiting, fit, take_results)
    finally:
        for client in clients:
            client.cancel()


def _serve(clients: Sequence[ClientRule[Any]], take_results: Callable[[], None]) -> list[ClientRule[Any]]:
    """Answer requests other than fits.

    Returns:
        the rules that wait for a fit.
    """
    for client in clients:
        while not client.is_done and not isinstance(client.request, FitCall):
            client.resume(_measure(client.request))
        take_results()
    return [client for client in clients if not client.is_done]


def _fit_and_resume(waiting: Sequence[ClientRule[Any]], fit: FitTogether, take_results: Callable[[], None]) -> None:
    calls = [client.request for client in waiting if isinstance(client.request, FitCall)]
    missing = set(range(len(calls)))

    def answer(place: int, outcome: Outcome) -> None:
        missing.remove(place)
        waiting[place].resume(outcome)
        take_results()

    fit(calls, answer)
    if missing:
        raise RuntimeError(f"{len(missing)} calls of fit have no answer")


def _measure(function: Any) -> Any:
    try:
        return function()
    except Exception as error:  # of the client's code, for the rule
        return error
