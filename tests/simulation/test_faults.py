"""Faults strike by a keyed draw, which is the same every time."""

import numpy as np
import pytest
import torch

from fedlit.aggregation.validation import layout_mismatch
from fedlit.core.errors import ConfigError, LostRounds
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Update
from fedlit.simulation.client_faults import Corrupt, CrashWorker, Drop, Fault, Hang, PlannedFailure, Raise
from fedlit.simulation.faults import FailurePolicy, FaultPlan

UPDATE = Update(
    {"parameters": {"w": torch.ones(2, 3), "b": torch.ones(3)}, "buffers": {"n": torch.tensor(4)}}, weight=2.0
)


def struck(policy, rounds=20, clients=20, seed=3):
    return [(r, c) for r in range(rounds) for c in range(clients) if policy.active_faults(seed, r, c)]


def test_the_same_clients_are_struck_every_time_and_others_with_another_seed():
    policy = FailurePolicy(plans=(FaultPlan(Raise(), 0.2),))
    assert struck(policy) == struck(policy)
    assert 40 < len(struck(policy)) < 120
    assert struck(policy) != struck(policy, seed=4)


def test_plan_strikes_the_same_clients_with_and_without_other_plans():
    first, second = FaultPlan(Raise(), 0.2), FaultPlan(Drop(), 0.2)
    both = FailurePolicy(plans=(first, second))
    alone = [(r, c) for r, c in struck(both) if Raise() in [fault for fault, _ in both.active_faults(3, r, c)]]
    assert alone == struck(FailurePolicy(plans=(first,)))


def test_clients_and_rounds_restrict_a_plan_and_do_not_change_its_draws():
    unrestricted = struck(FailurePolicy(plans=(FaultPlan(Raise(), 0.3),)))
    restricted = struck(FailurePolicy(plans=(FaultPlan(Raise(), 0.3, clients=(1, 2), rounds=(1, 5)),)))
    assert restricted == [(r, c) for r, c in unrestricted if c in (1, 2) and r in (0, 4)]
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
        (lambda: FaultPlan(object(), 0.5), "fault"),
        (lambda: FailurePolicy(plans=(Drop(),)), "plans.0"),
    ],
)
def test_errors_name_their_argument(make, key):
    with pytest.raises(ConfigError) as error:
        make()
    assert error.value.key == key


def test_fault_that_is_no_subclass_is_refused():
    class Duck:
        def before(self, attempt): ...

        def after(self, update, generator): ...

    with pytest.raises(ConfigError, match=r"fault=Duck: is no Fault; subclass fedlit\.simulation\.Fault"):
        FaultPlan(Duck(), 1.0)
    with pytest.raises(
        ConfigError, match=r"plans\.mine=Duck: is no FaultPlan; .* a subclass of fedlit\.simulation\.Fault"
    ):
        FailurePolicy(plans=(Duck(),), names=("mine",))


def test_fault_does_nothing_by_default():
    class Silent(Fault):
        """Overrides nothing."""

    assert Silent().before(0) is None
    assert Silent().after(UPDATE, generator()) is UPDATE
    assert errors_of(FaultPlan(Silent(), 1.0)) == []


def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("how", "count"),
    [
        ("nan", lambda t: int(t.isnan().sum())),
        ("inf", lambda t: int(t.isinf().sum())),
        ("huge", lambda t: int((t > 1e29).sum())),
        ("bit_flip", lambda t: int((t != 1).sum())),
    ],
)
def test_one_number_is_corrupt_and_the_given_update_does_not_change(how, count):
    corrupt = Corrupt(how).after(UPDATE, generator()).groups
    assert sum(count(t) for t in corrupt["parameters"].values()) == 1
    assert corrupt["buffers"]["n"] == 4
    assert all(bool((t == 1).all()) for t in UPDATE.groups["parameters"].values())
    assert layout_mismatch(corrupt, UPDATE.groups) == ""
    again = Corrupt(how).after(UPDATE, generator()).groups
    assert all(str(t) == str(again["parameters"][n]) for n, t in corrupt["parameters"].items())


def test_wrong_shape_is_reported_with_its_name():
    corrupt = Corrupt("wrong_shape").after(UPDATE, generator())
    assert layout_mismatch(corrupt.groups, UPDATE.groups) in (
        "parameters/w float32 [7], not float32 [2, 3]",
        "parameters/b float32 [4], not float32 [3]",
    )


@pytest.mark.parametrize(
    ("groups", "problem"),
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
def test_layout_mismatch_reports_names_shapes_and_dtypes(groups, problem):
    assert layout_mismatch(groups, {"parameters": {"w": torch.ones(2)}}) == problem


def test_clients_drop_out_before_or_after_training():
    with pytest.raises(PlannedFailure, match="before"):
        Drop().before(None)
    Drop("after").before(None)
    with pytest.raises(PlannedFailure, match="after"):
        Drop("after").after(UPDATE, generator())
    with pytest.raises(RuntimeError, match="as planned"):
        Raise().before(0)


def test_crash_and_hang_strike_worker_processes_in_the_first_attempt_only():
    for fault in (CrashWorker(), Hang()):
        for attempt in (None, 1, 2):
            fault.before(attempt)
        assert fault.after(UPDATE, generator()) is UPDATE


def test_too_many_lost_rounds_in_a_row_end_the_run():
    FailurePolicy(max_lost_rounds=2).raise_if_too_many_lost(1)
    with pytest.raises(LostRounds, match=r"2 rounds in a row were lost; the limit is faults\.max_lost_rounds=2"):
        FailurePolicy(max_lost_rounds=2).raise_if_too_many_lost(2)


def errors_of(*plans, rounds=5, **executor):
    """The (key, value, is it a warning) of each error in plans for four clients."""
    errors = FailurePolicy(plans=plans).check(
        FederationFacts(np.full(4, 10), 2, (), has_client_tests=False, rounds=rounds, **executor)
    )
    return [(error.key.removeprefix("faults.plans."), error.value, error.warning) for error in errors]


@pytest.mark.parametrize(
    ("restriction", "expected"),
    [
        ({"clients": (0, 3), "rounds": (1, 5)}, []),
        ({"clients": (3, 4)}, [("0.clients", [3, 4], False)]),
        ({"clients": (-1,)}, [("0.clients", [-1], False)]),
        ({"clients": ("0",)}, [("0.clients", ["0"], False)]),
        ({"clients": ()}, [("0.clients", [], False)]),
        ({"rounds": (0, 1)}, [("0.rounds", [0, 1], False)]),
        ({"rounds": (6, 7)}, [("0.rounds", [6, 7], False)]),
        ({"rounds": ()}, [("0.rounds", [], False)]),
        ({"rounds": (5, 6)}, [("0.rounds", [5, 6], True)]),  # a resumed run may have more rounds
        ({"probability": 0}, [("0.probability", 0, True)]),
    ],
)
def test_plan_that_cannot_strike_is_reported(restriction, expected):
    assert errors_of(FaultPlan(**{"fault": Drop(), "probability": 1.0, **restriction})) == expected


def test_faults_of_worker_processes_need_worker_processes_and_a_hang_needs_a_timeout():
    plans = (FaultPlan(Drop(), 1.0), FaultPlan(CrashWorker(), 1.0), FaultPlan(Hang(9.0), 1.0))
    assert errors_of(*plans, has_worker_processes=True, wall_timeout_s=2.0) == []
    assert errors_of(*plans, has_worker_processes=True) == [("2.fault.seconds", 9.0, False)]
    assert errors_of(*plans) == [("1.fault", "CrashWorker", True), ("2.fault", "Hang", True)]


def test_count_of_lost_rounds_restarts_after_a_run_that_ended_because_of_them():
    assert [FailurePolicy(max_lost_rounds=3).carried_over(lost) for lost in (0, 2, 3, 5, 6)] == [0, 2, 0, 2, 0]
