"""Client rules in threads, of which one runs at a time."""

import os
import pickle
import threading
from contextvars import ContextVar

import pytest
import torch

from fedlit.client.fit.call import FitOutcome
from fedlit.client.vectorized.rules import gather
from fedlit.client.vectorized.rules.gather import run_together
from fedlit.client.vectorized.rules.rule_threads import RuleThreads
from fedlit.core.model import Model


def gathered(rules, fit, threads=None):
    """The results of rules, whose calls a function answers all at once."""
    results = []

    def answer_all(calls, answer):
        for place, outcome in enumerate(fit(calls)):
            answer(place, outcome)

    run_together(rules, answer_all, threads or RuleThreads(), results.append)
    return results


def gathered_by(threads, rules=None):
    """The results of rules, by default of one, in some threads."""
    return gathered(rules or [rule(1, 1, [])], lambda calls: [None for _ in calls], threads)


class Call:
    """Stands for a FitCall."""

    def __init__(self, client, number):
        self.client, self.number = client, number


@pytest.fixture(autouse=True)
def plain_calls(monkeypatch):
    """Let plain objects stand for calls."""
    monkeypatch.setattr(gather, "FitCall", Call)


def rule(client, fits, log):
    """A rule that fits some times."""

    def run(work):
        log.append((client, "begins"))
        results = [work.fit(Call(client, number)) for number in range(fits)]
        return client, results

    return run


def test_calls_are_gathered_in_waves_and_answered_in_order():
    log, waves = [], []

    def fit(calls):
        waves.append([(call.client, call.number) for call in calls])
        return [10 * call.client + call.number for call in calls]

    results = gathered([rule(1, 2, log), rule(2, 0, log), rule(3, 1, log)], fit)
    assert results == [(1, [10, 11]), (2, []), (3, [30])]
    assert waves == [[(1, 0), (3, 0)], [(1, 1)]]
    assert [client for client, _ in log] == [1, 2, 3]


def test_a_failure_is_raised_in_its_own_rule():
    def careful(work):
        try:
            return work.fit(Call(1, 0))
        except ZeroDivisionError:
            return "caught"

    def fit(calls):
        return [
            ZeroDivisionError("of a client") if call.client == 1 else FitOutcome(Model({}, {}), 1, {}, dict)
            for call in calls
        ]

    first, second = gathered([careful, rule(2, 1, [])], fit)
    assert first == "caught"
    assert second[1][0].steps == 1


def test_measurements_run_at_once_in_the_caller_s_thread():
    threads = []

    def measures(work):
        return work.measure(lambda: threads.append(threading.current_thread()) or 7)

    assert gathered([measures], lambda calls: []) == [7]
    assert threads == [threading.main_thread()]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_threads_end_when_the_training_is_interrupted(error):
    before, threads = threading.active_count(), RuleThreads()
    ended = []

    def waits(work):
        try:
            work.fit(Call(1, 0))
        finally:
            ended.append(1)

    def fit(calls):
        raise error

    with pytest.raises(error):
        gathered([waits, waits, waits], fit, threads)
    assert ended == [1, 1, 1]
    assert threading.active_count() == before + 3
    threads.end()
    assert threading.active_count() == before


def test_an_exception_of_a_rule_ends_the_others():
    def fails(work):
        raise KeyError("of the rule")

    with pytest.raises(KeyError, match="of the rule"):
        gathered([rule(1, 1, []), fails], lambda calls: [None for _ in calls])


def ending(number, log, error=None):
    """A rule that says when its fit is over."""

    def run(work):
        work.fit(Call(number, 0))
        log.append(f"ends {number}")
        if error is not None:
            raise error
        return number

    return run


def test_a_rule_goes_on_while_others_train_and_its_result_is_taken_at_once():
    log = []

    def fit(calls, answer):
        for place in (0, 1):
            log.append(f"trains {place}")
            answer(place, None)

    run_together([ending(0, log), ending(1, log)], fit, RuleThreads(), lambda result: log.append(f"result {result}"))
    assert log == ["trains 0", "ends 0", "result 0", "trains 1", "ends 1", "result 1"]


def test_results_are_taken_in_the_order_of_the_rules():
    results = []

    def fit(calls, answer):
        for place in (2, 0, 1):
            answer(place, None)

    run_together([ending(number, []) for number in range(3)], fit, RuleThreads(), results.append)
    assert results == [0, 1, 2]


def test_what_else_a_rule_asks_for_waits_until_all_have_trained():
    log = []

    def measures(work):
        work.fit(Call(0, 0))
        work.measure(lambda: log.append("measures"))
        work.fit(Call(0, 1))
        return "done"

    def fit(calls, answer):
        for place, call in enumerate(calls):
            log.append(f"trains {call.client} {call.number}")
            answer(place, None)

    run_together([measures, ending(1, log)], fit, RuleThreads(), log.append)
    assert log == ["trains 0 0", "trains 1 0", "ends 1", "measures", "trains 0 1", "done", 1]


def test_a_call_without_an_answer_is_an_error():
    with pytest.raises(RuntimeError, match="2 calls of fit have no answer"):
        run_together([rule(1, 1, []), rule(2, 1, [])], lambda calls, answer: None, RuleThreads(), print)


@pytest.mark.parametrize("is_taken", [True, False])
def test_threads_end_when_a_result_cannot_be_taken_or_a_rule_fails(is_taken):
    before, threads = threading.active_count(), RuleThreads()
    rules = [ending(0, [], None if is_taken else ValueError("no")), rule(1, 1, [])]

    def take(result):
        raise ValueError("no")

    def fit(calls, answer):
        answer(0, None)
        raise AssertionError("must not go on")

    with pytest.raises(ValueError, match="no"):
        run_together(rules, fit, threads, take)
    threads.end()
    assert threading.active_count() == before


def test_later_groups_use_the_same_threads_as_if_they_were_new():
    number = ContextVar("number", default=0)
    threads, seen = RuleThreads(), []

    def leaves_traces(work):
        seen.append((threading.get_ident(), torch.is_grad_enabled(), number.get()))
        torch.set_grad_enabled(False)
        number.set(1)
        return work.fit(Call(1, 0))

    for _ in range(3):
        gathered_by(threads, [leaves_traces, leaves_traces])
    assert len({ident for ident, _, _ in seen}) == 2
    assert {(has_gradients, value) for _, has_gradients, value in seen} == {(True, 0)}
    threads.end()


def test_threads_end_with_their_owner():
    before, threads = threading.active_count(), RuleThreads()
    gathered_by(threads)
    assert threading.active_count() == before + 1
    del threads
    assert threading.active_count() == before


def test_another_process_has_threads_of_its_own():
    threads = RuleThreads()
    gathered_by(threads)
    copy = pickle.loads(pickle.dumps(threads))
    assert gathered_by(copy) == [(1, [None])]
    threads.end()
    copy.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_starts_new_threads():
    threads = RuleThreads()
    gathered_by(threads)
    if (child := os.fork()) == 0:
        os._exit(0 if gathered_by(threads) == [(1, [None])] else 1)
    _, status = os.waitpid(child, 0)
    threads.end()
    assert os.waitstatus_to_exitcode(status) == 0
