"""Client rules that run again from their start, with one answer more each time."""

import itertools
import weakref
from functools import partial

import pytest
import torch

from fedlit.client.fit.call import FitCall, FitOutcome
from fedlit.client.vectorized.gather import run_together
from fedlit.core.errors import ConfigError
from fedlit.core.model import GradientTerm, Model


def call(client, key=0, **settings):
    """A call of `fit`, without data."""
    defaults = {
        **dict.fromkeys(
            ("replica", "config", "data", "batches", "only", "epochs", "budget", "lr_factor", "client_state")
        ),
        "round": 0,
        "model": Model({}, {}),
        "gradient_terms": (),
        "contrasts": (),
    }
    return FitCall(**{**defaults, "client": client, "key": key, **settings})


def gathered(rules, fit, **settings):
    """The results of rules, whose calls a function answers all at once."""
    results = []

    def answer_all(calls, answer):
        for place, outcome in enumerate(fit(calls)):
            answer(place, outcome)

    run_together(rules, answer_all, results.append, **settings)
    return results


def nothing(calls):
    return [None for _ in calls]


def rule(client, fits, log):
    """A rule that fits some times."""

    def run(work):
        log.append(client)
        return client, [work.fit(call(client, key)) for key in range(fits)]

    return run


def test_calls_are_gathered_in_waves_and_answered_in_order():
    log, waves = [], []

    def fit(calls):
        waves.append([(call.client, call.key) for call in calls])
        return [10 * call.client + call.key for call in calls]

    results = gathered([rule(1, 2, log), rule(2, 0, log), rule(3, 1, log)], fit)
    assert results == [(1, [10, 11]), (2, []), (3, [30])]
    assert waves == [[(1, 0), (3, 0)], [(1, 1)]]
    assert log == [1, 2, 3, 1, 3, 1]  # each runs once more than it fits


def test_a_failure_is_raised_in_its_own_rule():
    def careful(work):
        try:
            return work.fit(call(1))
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


def frames(error):
    """The functions of an error's traceback."""
    names, traceback = [], error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return names


def test_an_error_that_is_raised_in_each_run_keeps_the_place_where_it_began():
    seen = []

    def retries(work):
        for key in range(3):
            try:
                work.fit(call(1, key))
            except ZeroDivisionError as error:
                seen.append(frames(error))

    def divide():
        return 1 / 0

    def fit(calls):
        try:
            divide()
        except ZeroDivisionError as error:
            return [error]

    gathered([retries], fit)
    assert len(seen) == 1 + 2 + 3
    assert {names[-1] for names in seen} == {"divide"}
    assert len({len(names) for names in seen}) == 1


def test_measurements_run_once():
    log = []

    def measures(work):
        first = work.measure(lambda: log.append("first") or 7)
        second = work.fit(call(1))
        return first, second, work.measure(lambda: log.append("second") or 8)

    assert gathered([measures], lambda calls: ["fitted"]) == [(7, "fitted", 8)]
    assert log == ["first", "second"]


def test_batches_are_made_once_for_each_fit():
    made, used = itertools.count(), []

    def fits(work):
        for key in range(2):
            work.measure(dict)
            work.fit(call(1, key, batches=work.batches(key, partial(next, made))))

    def fit(calls):
        used.extend(one.batches for one in calls)
        return nothing(calls)

    gathered([fits], fit)
    assert used == [0, 1]
    assert next(made) == 2


def test_batches_of_another_fit_are_not_those_of_a_repeated_call():
    def unreadable():
        raise OSError("cannot read it")

    def fits(work):
        try:
            work.batches(7, unreadable)
        except OSError:
            return work.fit(call(1, batches=work.batches(0, list)))
        return "no error"

    assert gathered([fits], lambda calls: ["fitted"]) == ["fitted"]


def test_a_measurement_that_fails_is_raised_in_its_rule():
    def measures(work):
        try:
            work.measure(lambda: 1 / 0)
        except ZeroDivisionError:
            return work.fit(call(1))

    assert gathered([measures], lambda calls: ["fitted"]) == ["fitted"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_of_the_training_ends_all(error):
    def fit(calls):
        raise error

    with pytest.raises(error):
        gathered([rule(1, 1, []), rule(2, 1, [])], fit)


def test_an_exception_of_a_rule_ends_the_others():
    log = []

    def fails(work):
        raise KeyError("of the rule")

    with pytest.raises(KeyError, match="of the rule"):
        gathered([rule(1, 1, log), fails, rule(2, 1, log)], nothing)
    assert log == [1]


def ending(number, log):
    """A rule that says when its fit is over."""

    def run(work):
        work.fit(call(number))
        log.append(f"ends {number}")
        return number

    return run


def test_a_rule_goes_on_while_others_train_and_its_result_is_taken_at_once():
    log = []

    def fit(calls, answer):
        for place in (0, 1):
            log.append(f"trains {place}")
            answer(place, None)

    run_together([ending(0, log), ending(1, log)], fit, lambda result: log.append(f"result {result}"))
    assert log == ["trains 0", "ends 0", "result 0", "trains 1", "ends 1", "result 1"]


def test_results_are_taken_in_the_order_of_the_rules():
    results = []

    def fit(calls, answer):
        for place in (2, 0, 1):
            answer(place, None)

    run_together([ending(number, []) for number in range(3)], fit, results.append)
    assert results == [0, 1, 2]


def test_what_else_a_rule_asks_for_waits_until_all_have_trained():
    log = []

    def measures(work):
        work.fit(call(0, 0))
        work.measure(lambda: log.append("measures"))
        work.fit(call(0, 1))
        return "done"

    def fit(calls, answer):
        for place, one in enumerate(calls):
            log.append(f"trains {one.client} {one.key}")
            answer(place, None)

    run_together([measures, ending(1, log)], fit, log.append)
    assert log == ["trains 0 0", "trains 1 0", "ends 1", "measures", "trains 0 1", "done", 1]


def test_a_call_without_an_answer_is_an_error():
    with pytest.raises(RuntimeError, match="2 calls of fit have no answer"):
        run_together([rule(1, 1, []), rule(2, 1, [])], lambda calls, answer: None, print)


def test_an_error_of_the_caller_ends_the_training():
    def take(result):
        raise ValueError("no")

    def fit(calls, answer):
        answer(0, None)
        raise AssertionError("must not go on")

    with pytest.raises(ValueError, match="no"):
        run_together([rule(1, 1, []), rule(2, 1, [])], fit, take)


def test_an_outcome_is_freed_as_soon_as_its_result_is_taken():
    alive = []

    def fit(calls, answer):
        for place in range(len(calls)):
            outcome = Model({}, {})
            alive.append(weakref.ref(outcome))
            answer(place, outcome)
            del outcome
            assert alive[-1]() is None

    run_together([rule(1, 1, []), rule(2, 1, [])], fit, lambda result: None)
    assert len(alive) == 2


def with_runs(body):
    """A rule that knows how often it has run."""
    runs = []

    def run(work):
        runs.append(work)
        return body(work, len(runs))

    return run


ONE, TWO = ({"w": torch.full((2,), value)} for value in (1.0, 2.0))
OTHERS = {
    "client": lambda work, run: work.fit(call(run)),
    "key": lambda work, run: work.fit(call(1, key=run)),
    "epochs": lambda work, run: work.fit(call(1, epochs=run)),
    "budget": lambda work, run: work.fit(call(1, budget=run)),
    "layers": lambda work, run: work.fit(call(1, only=frozenset({f"layer {run}"}))),
    "terms": lambda work, run: work.fit(call(1, gradient_terms=(GradientTerm(),) * run)),
    "kind": lambda work, run: work.fit(call(1)) if run == 1 else work.measure(dict),
    "fewer": lambda work, run: work.fit(call(1)) if run == 1 else None,
}
NUMBERS = {
    "weights": lambda work, run: work.fit(call(1, model=Model(ONE if run == 1 else TWO, {}))),
    "mu": lambda work, run: work.fit(call(1, gradient_terms=(GradientTerm(0.1 * run, ONE),))),
    "center": lambda work, run: work.fit(call(1, gradient_terms=(GradientTerm(0.1, ONE if run == 1 else TWO),))),
    "offset": lambda work, run: work.fit(call(1, gradient_terms=(GradientTerm(offset=ONE if run == 1 else TWO),))),
    "no offset": lambda work, run: work.fit(call(1, gradient_terms=(GradientTerm(offset=ONE if run == 1 else None),))),
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_a_rule_that_asks_for_something_else_when_it_runs_again_is_refused(body):
    with pytest.raises(ConfigError, match="asks for other local training when its client rule runs again"):
        gathered([with_runs(body)], nothing)


@pytest.mark.parametrize("body", NUMBERS.values(), ids=NUMBERS)
def test_a_strict_run_compares_the_numbers_too(body):
    assert gathered([with_runs(body)], nothing) == [None]
    with pytest.raises(ConfigError, match="asks for other local training"):
        gathered([with_runs(body)], nothing, is_strict=True)


def test_a_strict_run_takes_the_same_numbers():
    terms = (GradientTerm(0.1, ONE, TWO), GradientTerm(), GradientTerm(float("nan"), ONE))
    rules = [with_runs(lambda work, run: work.fit(call(1, model=Model(ONE, TWO), gradient_terms=terms)))]
    assert gathered(rules, lambda calls: ["fitted"], is_strict=True) == ["fitted"]


def test_a_rule_cannot_catch_that_it_is_different():
    def careful(work, run):
        try:
            return work.fit(call(1, epochs=run))
        except Exception:
            return "caught"

    with pytest.raises(ConfigError, match="asks for other local training"):
        gathered([with_runs(careful)], nothing)


def test_nan_is_equal_to_itself_and_bits_count():
    def fits(value):
        return lambda work, run: work.fit(call(1, model=Model({"w": torch.tensor([torch.nan, value * run])}, {})))

    assert gathered([with_runs(fits(torch.nan))], lambda calls: ["fitted"], is_strict=True) == ["fitted"]
    with pytest.raises(ConfigError, match="asks for other local training"):
        gathered([with_runs(fits(1.0))], nothing, is_strict=True)


def test_a_rule_that_is_tried_again_starts_without_the_answers_before():
    waves, failures = [], iter([True, True, False])

    def flaky(work):
        result = work.fit(call(1))
        return ("failed" if next(failures) else "succeeded", result)

    def fit(calls):
        waves.append(len(calls))
        return [len(waves) for _ in calls]

    def tries_again(result, number):
        return result[0] == "failed" and number < 2

    assert gathered([flaky], fit, tries_again=tries_again) == [("succeeded", 3)]
    assert waves == [1, 1, 1]
    failures = iter([True] * 9)
    assert gathered([flaky], fit, tries_again=tries_again) == [("failed", 6)]


def raises_in_the_end(work):
    try:
        y = work.fit(call(1))
    finally:
        steps = y  # unknown while the rule ends for now
    return steps


def raises_another(work):
    try:
        return work.fit(call(1))
    except BaseException as error:
        raise RuntimeError("of the rule") from error


@pytest.mark.parametrize("rule", [raises_in_the_end, raises_another])
def test_code_that_fails_while_a_rule_ends_for_now_does_not_matter(rule):
    assert gathered([rule], lambda calls: ["fitted"]) == ["fitted"]


def catches_all(work):
    try:
        return work.fit(call(1))
    except BaseException:
        return "caught"


def fits_in_the_end(work):
    try:
        work.fit(call(1))
    finally:
        work.fit(call(1, 1))


def test_a_rule_that_catches_the_exception_at_which_it_ends_for_now_is_refused():
    with pytest.raises(ConfigError, match="caught the exception at which its client rule ends"):
        gathered([catches_all], nothing)


def test_a_rule_may_fit_again_in_a_finally_block():
    assert gathered([fits_in_the_end], nothing) == [None]
