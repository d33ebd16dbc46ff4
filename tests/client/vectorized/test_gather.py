"""Client rules in threads, of which one runs at a time."""

import os
import pickle
import threading
from contextvars import ContextVar

import pytest
import torch

from fedlit.client.fit.call import FitOutcome
from fedlit.client.vectorized import gather
from fedlit.client.vectorized.gather import RuleThreads, run_together
from fedlit.core.model import Model


def gathered(rules, fit):
    """The results of rules."""
    return list(run_together(rules, fit, RuleThreads()))


def gathered_by(threads):
    """The results of one rule in some threads."""
    return list(run_together([rule(1, 1, [])], lambda calls: [None for _ in calls], threads))


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
        list(run_together([waits, waits, waits], fit, threads))
    assert ended == [1, 1, 1]
    assert threading.active_count() == before + 3
    threads.end()
    assert threading.active_count() == before


def test_an_exception_of_a_rule_ends_the_others():
    def fails(work):
        raise KeyError("of the rule")

    with pytest.raises(KeyError, match="of the rule"):
        gathered([rule(1, 1, []), fails], lambda calls: [None for _ in calls])


def test_a_result_is_given_before_the_next_rule_continues():
    log = []

    def one(number):
        def run(work):
            work.fit(Call(number, 0))
            log.append(f"ends {number}")
            return number

        return run

    for result in run_together([one(1), one(2)], lambda calls: [None for _ in calls], RuleThreads()):
        log.append(f"result {result}")
    assert log == ["ends 1", "result 1", "ends 2", "result 2"]


def test_threads_end_when_the_results_are_no_longer_wanted():
    before, threads = threading.active_count(), RuleThreads()
    results = run_together([rule(1, 1, []), rule(2, 1, [])], lambda calls: [None for _ in calls], threads)
    next(results)
    results.close()
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
        list(run_together([leaves_traces, leaves_traces], lambda calls: [None for _ in calls], threads))
    assert len({ident for ident, _, _ in seen}) == 2
    assert {(has_gradients, value) for _, has_gradients, value in seen} == {(True, 0)}
    threads.end()


def test_threads_end_with_their_owner():
    before, threads = threading.active_count(), RuleThreads()
    list(run_together([rule(1, 1, [])], lambda calls: [None for _ in calls], threads))
    assert threading.active_count() == before + 1
    del threads
    assert threading.active_count() == before


def test_another_process_has_threads_of_its_own():
    threads = RuleThreads()
    list(run_together([rule(1, 1, [])], lambda calls: [None for _ in calls], threads))
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
