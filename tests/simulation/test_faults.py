"""Faults strike by a draw of their own, the same whoever asks and however often."""

import numpy as np
import pytest
import torch

from fedlit.client.worker import layout_mismatch
from fedlit.core.errors import ConfigError, LostRounds
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Update
from fedlit.simulation.faults import Corrupt, CrashWorker, Drop, FailurePolicy, FaultPlan, Hang, PlannedFailure, Raise

UPDATE = Update(
    {"parameters": {"w": torch.ones(2, 3), "b": torch.ones(3)}, "buffers": {"n": torch.tensor(4)}}, weight=2.0
)


def struck(faults, rounds=20, clients=20, seed=3):
    return [(r, c) for r in range(rounds) for c in range(clients) if faults.striking(seed, r, c)]


def test_the_same_clients_are_struck_each_time_and_others_under_another_seed():
    faults = FailurePolicy(plans=(FaultPlan(Raise(), 0.2),))
    assert struck(faults) == struck(faults)
    assert 40 < len(struck(faults)) < 120
    assert struck(faults) != struck(faults, seed=4)


def test_a_plan_among_others_strikes_whom_it_strikes_alone():
    first, second = FaultPlan(Raise(), 0.2), FaultPlan(Drop(), 0.2)
    both = FailurePolicy(plans=(first, second))
    alone = [(r, c) for r, c in struck(both) if Raise() in [fault for fault, _ in both.active_faults(3, r, c)]]
    assert alone == struck(FailurePolicy(plans=(first,)))


def test_clients_and_rounds_narrow_it_and_do_not_change_its_draws():
    every = struck(FailurePolicy(plans=(FaultPlan(Raise(), 0.3),)))
    some = struck(FailurePolicy(plans=(FaultPlan(Raise(), 0.3, clients=(1, 2), rounds=(1, 5)),)))
    assert some == [(r, c) for r, c in every if c in (1, 2) and r in (0, 4)]
    assert struck(FailurePolicy(plans=(FaultPlan(Raise(), 1.0, rounds=(2,)),))) == [(1, c) for c in range(20)]
    assert struck(FailurePolicy(plans=(FaultPlan(Raise(), 0.0),))) == []


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: FaultPlan(Raise(), 1.5), "probability"),
        (lambda: FaultPlan(Raise(), float("nan")), "probability"),
        (lambda: FailurePolicy("ignore"), "on_error"),
        (lambda: FailurePolicy(retries=0), "retries"),
        (lambda: FailurePolicy(max_lost_rounds=0), "max_lost_rounds"),
        (lambda: FailurePolicy(max_norm=0.0), "max_norm"),
        (lambda: FailurePolicy(max_norm=float("nan")), "max_norm"),
        (lambda: Drop("later"), "when"),
        (lambda: Corrupt("none"), "how"),
    ],
)
def test_a_value_that_is_none_is_a_mistake(make, key):
    with pytest.raises(ConfigError) as mistake:
        make()
    assert mistake.value.key == key


def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("how", "odd"),
    [
        ("nan", lambda t: int(t.isnan().sum())),
        ("inf", lambda t: int(t.isinf().sum())),
        ("huge", lambda t: int((t > 1e29).sum())),
        ("bit_flip", lambda t: int((t != 1).sum())),
    ],
)
def test_one_number_is_spoilt_and_what_was_given_is_not(how, odd):
    spoilt = Corrupt(how).after(UPDATE, generator()).groups
    assert sum(odd(t) for t in spoilt["parameters"].values()) == 1
    assert spoilt["buffers"]["n"] == 4
    assert all(bool((t == 1).all()) for t in UPDATE.groups["parameters"].values())
    assert layout_mismatch(spoilt, UPDATE.groups) == ""
    again = Corrupt(how).after(UPDATE, generator()).groups
    assert all(str(t) == str(again["parameters"][n]) for n, t in spoilt["parameters"].items())


def test_a_wrong_shape_is_told_by_name():
    spoilt = Corrupt("wrong_shape").after(UPDATE, generator())
    assert layout_mismatch(spoilt.groups, UPDATE.groups) in (
        "parameters/w float32 [7], not float32 [2, 3]",
        "parameters/b float32 [4], not float32 [3]",
    )


@pytest.mark.parametrize(
    ("send", "said"),
    [
        ({}, "parameters/w missing, not float32 [2]"),
        ({"parameters": {"w": torch.ones(2, dtype=torch.float64)}}, "parameters/w float64 [2], not float32 [2]"),
        ({"parameters": {"w": torch.ones(2), "v": torch.ones(1)}}, "parameters/v float32 [1], not missing"),
        ({"parameters": {"w": torch.ones(2)}, "more": {}}, ""),
        ({"other": {"w": torch.ones(2)}}, "parameters/w missing, not float32 [2]; other/w float32 [2], not missing"),
        (
            {"parameters": {f"x{n}": torch.ones(1) for n in range(5)}},
            "parameters/w missing, not float32 [2]; parameters/x0 float32 [1], not missing; "
            "parameters/x1 float32 [1], not missing; and 3 more",
        ),
    ],
)
def test_unlike_tells_names_shapes_and_dtypes(send, said):
    assert layout_mismatch(send, {"parameters": {"w": torch.ones(2)}}) == said


def test_drops_are_before_or_after_training():
    with pytest.raises(PlannedFailure, match="before"):
        Drop().before(None)
    Drop("after").before(None)
    with pytest.raises(PlannedFailure, match="after"):
        Drop("after").after(UPDATE, generator())
    with pytest.raises(RuntimeError, match="as planned"):
        Raise().before(0)


def test_a_crash_and_a_hang_strike_worker_processes_the_first_time_alone():
    for fault in (CrashWorker(), Hang()):
        for attempt in (None, 1, 2):
            fault.before(attempt)
        assert fault.after(UPDATE, generator()) is UPDATE


def test_so_many_lost_rounds_in_a_row_are_borne():
    FailurePolicy(max_lost_rounds=2).raise_if_too_many_lost(1)
    with pytest.raises(LostRounds, match=r"2 rounds in a row were lost, and faults\.max_lost_rounds=2"):
        FailurePolicy(max_lost_rounds=2).raise_if_too_many_lost(2)


def told(*plans, rounds=5, **executor):
    found = FailurePolicy(plans=plans).check(
        FederationFacts(np.full(4, 10), 2, (), has_client_tests=False, rounds=rounds, **executor)
    )
    return [(mistake.key.removeprefix("faults.plans."), mistake.value, mistake.warning) for mistake in found]


@pytest.mark.parametrize(
    ("narrowed", "wrong"),
    [
        ({"clients": (0, 3), "rounds": (1, 5)}, []),
        ({"clients": (3, 4)}, [("0.clients", [3, 4], False)]),
        ({"clients": (-1,)}, [("0.clients", [-1], False)]),
        ({"clients": ("0",)}, [("0.clients", ["0"], False)]),
        ({"clients": ()}, [("0.clients", [], False)]),
        ({"rounds": (0, 1)}, [("0.rounds", [0, 1], False)]),
        ({"rounds": (6, 7)}, [("0.rounds", [6, 7], False)]),
        ({"rounds": ()}, [("0.rounds", [], False)]),
        ({"rounds": (5, 6)}, [("0.rounds", [5, 6], True)]),  # of a run that goes further later
        ({"probability": 0}, [("0.probability", 0, True)]),
    ],
)
def test_a_plan_that_cannot_strike_is_told(narrowed, wrong):
    assert told(FaultPlan(**{"fault": Drop(), "probability": 1.0, **narrowed})) == wrong


def test_faults_of_worker_processes_need_some_and_a_hang_somebody_who_gives_up():
    plans = (FaultPlan(Drop(), 1.0), FaultPlan(CrashWorker(), 1.0), FaultPlan(Hang(9.0), 1.0))
    assert told(*plans, workers=True, wall_timeout_s=2.0) == []
    assert told(*plans, workers=True) == [("2.fault.seconds", 9.0, False)]
    assert told(*plans) == [("1.fault", "CrashWorker", True), ("2.fault", "Hang", True)]


def test_an_end_by_lost_rounds_begins_the_count_anew():
    assert [FailurePolicy(max_lost_rounds=3).carried_over(lost) for lost in (0, 2, 3, 5, 6)] == [0, 2, 0, 2, 0]
