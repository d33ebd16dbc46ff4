"""Client rules whose calls of `fit` are answered together.

A rule runs until it asks for a fit that has no answer, and ends there. When the answer is known, the rule runs again from its
start with all answers so far. It depends on its arguments alone, so it comes to the same place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Generic, TypeVar

from fedlit.client.fit.call import FitCall, FitOutcome, LocalWork
from fedlit.core.errors import ConfigError
from fedlit.core.tensors import Tensors, has_same_bits
from fedlit.data.protocols import Batches

T = TypeVar("T")
Outcome = FitOutcome | Exception
Answer = Callable[[int, Outcome], None]
"""Takes the place of a call of `fit`, and its outcome or exception."""
FitTogether = Callable[[Sequence[FitCall], Answer], None]
"""Trains several clients; it answers each call once, some before it has trained the others."""
Request = FitCall | Callable[[], Any]
"""A fit, or a function that uses the module."""

CATCH = "catch Exception, not BaseException; or use executor=processes"
DIFFERS = "asks for other local training when its client rule runs again with the same arguments"
DEPENDS = "let it depend on its arguments alone, and change nothing; or use executor=processes"


class Unanswered(BaseException):
    """A request without an answer, at which a rule ends for now.

    It is not an Exception, so that no client rule catches it.
    """


class ClientRule(Generic[T]):
    """One client's rule.

    Args:
        rule: function that runs the rule; it gets this object as its `LocalWork`.
        tries_again: function of a result and the number of results before it; True if the rule runs once more, as if for the
            first time.
        is_strict: True to compare also the numbers of calls that a rule repeats.
    """

    def __init__(self, rule: Callable[[LocalWork], T], tries_again: Callable[[T, int], bool], is_strict: bool) -> None:
        self._rule, self._tries_again, self._is_strict = rule, tries_again, is_strict
        self._answered: list[tuple[Request, Any, TracebackType | None]] = []
        self._num_asked = self._num_results = 0
        self._is_different = False
        self._result: T | None = None
        self.request: Request | None = None
        self.is_done = False

    def run(self) -> None:
        """Run the rule until a request without an answer, or its end.

        Raises:
            ConfigError: if the rule does something else than before.
            BaseException: an exception that the rule does not catch.
        """
        while not self.is_done:
            self._run_once()
            if self.request is not None:
                return
            self._answered.clear()
            self.is_done = not self._tries_again(self._result, self._num_results)  # type: ignore[arg-type]
            self._num_results += 1

    def _run_once(self) -> None:
        self._num_asked, self.request, self._is_different, has_result = 0, None, False, False
        try:
            self._result = self._rule(self)
            has_result = True
        except Unanswered:
            pass
        except Exception:
            if self.request is None and not self._is_different:
                raise  # else it comes from code that runs while the rule ends for now
        if self._is_different or (self.request is None and self._num_asked < len(self._answered)):
            raise ConfigError("algorithm", "", DIFFERS, DEPENDS)
        if has_result and self.request is not None:
            raise ConfigError("algorithm", "", "caught the exception at which its client rule ends for now", CATCH)

    def answer(self, answer: Any) -> None:
        """Answer the request, and run the rule again.

        Args:
            answer: the answer; an exception is raised in the rule.
        """
        assert self.request is not None
        traceback = answer.__traceback__ if isinstance(answer, Exception) else None
        self._answered.append((self.request, answer, traceback))
        self.run()

    def take_result(self) -> T:
        """Return the result, and keep nothing of it."""
        result, self._result = self._result, None
        return result  # type: ignore[return-value]

    def batches(self, key: int, make: Callable[[], Batches]) -> Batches:
        """Return the batches of a repeated call, or make new ones."""
        earlier = self._answered[self._num_asked][0] if self._num_asked < len(self._answered) else None
        return earlier.batches if isinstance(earlier, FitCall) and earlier.key == key else make()

    def fit(self, call: FitCall) -> FitOutcome:
        """Train a client: see `LocalWork`."""
        return self._ask(call)

    def measure(self, function: Callable[[], Any]) -> Any:
        """Return the result of a function that uses the module: see `LocalWork`."""
        return self._ask(function)

    def _ask(self, request: Request) -> Any:
        if self.request is not None or self._num_asked == len(self._answered):
            self.request = self.request or request
            raise Unanswered
        earlier, answer, traceback = self._answered[self._num_asked]
        self._num_asked += 1
        if not _is_same(earlier, request, self._is_strict):
            self._is_different = True
            raise Unanswered  # a ConfigError could be caught by the rule
        if isinstance(answer, Exception):
            raise answer.with_traceback(traceback)
        return answer


def run_together(
    rules: Sequence[Callable[[LocalWork], T]],
    fit: FitTogether,
    take: Callable[[T], None],
    tries_again: Callable[[T, int], bool] = lambda result, number: False,
    is_strict: bool = False,
) -> None:
    """Run client rules, and answer their calls of `fit` together.

    A rule goes on as soon as its call is answered, while others may still train, so that few models are in memory. What else it
    asks for waits until all have trained.

    Args:
        rules: functions that run one client's rule each.
        fit: trains several clients.
        take: gets the results in the order of the rules, each as soon as those before it are there.
        tries_again: see `ClientRule`.
        is_strict: True to compare also the numbers of calls that a rule repeats, which takes time.

    Raises:
        ConfigError: if a rule that runs again does something else than before.
        BaseException: any exception that a rule does not catch.
    """
    clients = [ClientRule(rule, tries_again, is_strict) for rule in rules]
    rest = deque(clients)

    def take_results() -> None:
        while rest and rest[0].is_done:
            take(rest.popleft().take_result())

    for client in clients:
        client.run()
    while waiting := _measure_for(clients, take_results):
        _fit_and_answer(waiting, fit, take_results)


def _measure_for(clients: Sequence[ClientRule[Any]], take_results: Callable[[], None]) -> list[ClientRule[Any]]:
    """Answer requests other than fits.

    Returns:
        the rules that wait for a fit.
    """
    for client in clients:
        while not client.is_done and not isinstance(client.request, FitCall):
            client.answer(_measured(client.request))
        take_results()
    return [client for client in clients if not client.is_done]


def _measured(function: Any) -> Any:
    try:
        return function()
    except Exception as error:  # of the client's code, for the rule
        return error


def _fit_and_answer(waiting: Sequence[ClientRule[Any]], fit: FitTogether, take_results: Callable[[], None]) -> None:
    calls = [client.request for client in waiting if isinstance(client.request, FitCall)]
    missing = set(range(len(calls)))

    def answer(place: int, outcome: Outcome) -> None:
        missing.remove(place)
        waiting[place].answer(outcome)
        take_results()

    fit(calls, answer)
    if missing:
        raise RuntimeError(f"{len(missing)} calls of fit have no answer")


def _is_same(one: Request, other: Request, is_strict: bool) -> bool:
    """Return True if two requests ask for the same."""
    if not isinstance(one, FitCall) or not isinstance(other, FitCall):
        return isinstance(one, FitCall) == isinstance(other, FitCall)
    if _names(one) != _names(other):
        return False
    if not is_strict:
        return True
    pairs = [(one.model.state_dict(), other.model.state_dict())]
    for first, second in zip(one.gradient_terms, other.gradient_terms, strict=True):
        pairs += [(first.center, second.center), (first.offset, second.offset)]
    factors = [[repr(term.mu) for term in call.gradient_terms] for call in (one, other)]  # NaN is equal to itself
    return factors[0] == factors[1] and all(_have_same_bits(first or {}, second or {}) for first, second in pairs)


def _names(call: FitCall) -> tuple[Any, ...]:
    contrasts = [repr((term.mu, term.temperature, term.layer)) for term in call.contrasts]
    return call.client, call.key, call.only, call.epochs, call.budget, len(call.gradient_terms), contrasts


def _have_same_bits(one: Tensors, other: Tensors) -> bool:
    """Return True if tensors have the same names and bits."""
    return one.keys() == other.keys() and all(has_same_bits(tensor, other[name]) for name, tensor in one.items())
