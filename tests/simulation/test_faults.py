"""Planned faults, which strike by a keyed draw, and the policy for clients that fail."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from configured import build as built
from conftest import composed as compose_config

from fedlit.aggregation.validation import UpdateTemplate
from fedlit.cli import resume, train
from fedlit.cli.resume import resume_arguments
from fedlit.core.errors import ConfigError, ConfigErrors, LostRounds
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Update
from fedlit.experiment.config.plain import to_plain
from fedlit.reports.render import figures
from fedlit.simulation.client_faults import Corrupt, CrashWorker, Drop, Fault, Hang, PlannedFailure, Raise
from fedlit.simulation.faults import FailurePolicy, FaultPlan

UPDATE = Update(
    {"parameters": {"w": torch.ones(2, 3), "b": torch.ones(3)}, "buffers": {"n": torch.tensor(4)}}, weight=2.0
)


def strikes(policy, rounds=20, clients=20, seed=3):
    return [(r, c) for r in range(rounds) for c in range(clients) if policy.active_faults(seed, r, c)]


def test_a_plan_strikes_the_same_clients_every_time_and_others_with_another_seed():
    policy = FailurePolicy(plans=(FaultPlan(Raise(), 0.2),))
    assert strikes(policy) == strikes(policy)
    assert 40 < len(strikes(policy)) < 120
    assert strikes(policy) != strikes(policy, seed=4)


def test_plan_strikes_the_same_clients_with_and_without_other_plans():
    first, second = FaultPlan(Raise(), 0.2), FaultPlan(Drop(), 0.2)
    both = FailurePolicy(plans=(first, second))
    alone = [(r, c) for r, c in strikes(both) if Raise() in [fault for fault, _ in both.active_faults(3, r, c)]]
    assert alone == strikes(FailurePolicy(plans=(first,)))


def test_clients_and_rounds_restrict_a_plan_and_do_not_change_its_draws():
    unrestricted = strikes(FailurePolicy(plans=(FaultPlan(Raise(), 0.3),)))
    restricted = strikes(FailurePolicy(plans=(FaultPlan(Raise(), 0.3, clients=(1, 2), rounds=(1, 5)),)))
    assert restricted == [(r, c) for r, c in unrestricted if c in (1, 2) and r in (0, 4)]
    assert strikes(FailurePolicy(plans=(FaultPlan(Raise(), 1.0, rounds=(2,)),))) == [(1, c) for c in range(20)]
    assert strikes(FailurePolicy(plans=(FaultPlan(Raise(), 0.0),))) == []


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


@pytest.mark.parametrize("how", ["nan", "inf"])
def test_corrupt_takes_the_floats_that_hydra_makes_of_its_words(how):
    assert Corrupt(float(how)) == Corrupt(how)
    assert Corrupt(float(how)).how == how


@pytest.mark.parametrize("how", [float("-inf"), 3.0, 3])
def test_corrupt_refuses_other_numbers(how):
    with pytest.raises(ConfigError, match=f"how={how}: must be one of nan, inf, huge, bit_flip, wrong_shape"):
        Corrupt(how)


HOW = "faults.plans.corrupt.fault.how"


@pytest.mark.slow  # builds a configuration
@pytest.mark.parametrize("how", ["nan", "inf", "huge"])
def test_corruption_can_be_chosen_on_the_command_line_also_of_a_resumed_run(tmp_path, monkeypatch, how):
    overrides = ["faults=corrupt", f"{HOW}={how}"]
    (plan,) = built(*overrides).federation.faults.plans
    assert plan.fault == Corrupt(how)
    monkeypatch.setattr(resume, "compose", lambda name, overrides: compose_config(*overrides))
    (tmp_path / "command.json").write_text(json.dumps({"overrides": overrides}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_plain(compose_config(*overrides))))
    assert resume_arguments([f"resume={tmp_path}", f"{HOW}={how}"])[-3] == f"{HOW}={how}"
    other = "inf" if how == "nan" else "nan"
    with pytest.raises(ConfigErrors, match=rf"how={other}: was {how} when the run began"):
        resume_arguments([f"resume={tmp_path}", f"{HOW}={other}"])


@pytest.mark.slow  # whole runs
def test_sweep_over_corruptions_runs_and_the_same_command_finds_its_jobs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(figures, "save_figures", lambda report, out: [])
    arguments = ["debug=quick", "observers=none", "executor=inline", "faults=corrupt", f"{HOW}=nan,inf,huge"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["fedlit", "-m", *arguments, "hydra.sweep.dir=sweep"])
        train.main()
        assert "3 of 3 jobs are finished" in capsys.readouterr().out
    assert len(list(tmp_path.glob("sweep/*/summary.json"))) == 3


def test_fault_that_is_no_subclass_is_refused():
    class Duck:
        def before(self, attempt): ...

        def after(self, update, generator): ...

    with pytest.raises(ConfigError, match=r"fault=Duck: is not a Fault; subclass fedlit\.simulation\.Fault"):
        FaultPlan(Duck(), 1.0)
    with pytest.raises(
        ConfigError, match=r"plans\.mine=Duck: is not a FaultPlan; .* a subclass of fedlit\.simulation\.Fault"
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
    assert UpdateTemplate(UPDATE.groups).mismatch(corrupt) == ""
    again = Corrupt(how).after(UPDATE, generator()).groups
    assert all(str(t) == str(again["parameters"][n]) for n, t in corrupt["parameters"].items())


def test_wrong_shape_is_reported_with_its_name():
    corrupt = Corrupt("wrong_shape").after(UPDATE, generator())
    assert UpdateTemplate(UPDATE.groups).mismatch(corrupt.groups) in (
        "parameters/w is float32 [7], not float32 [2, 3]",
        "parameters/b is float32 [4], not float32 [3]",
    )


def test_clients_drop_out_before_or_after_training():
    with pytest.raises(PlannedFailure, match="before"):
        Drop().before(None)
    Drop("after").before(None)
    with pytest.raises(PlannedFailure, match="after"):
        Drop("after").after(UPDATE, generator())
    with pytest.raises(RuntimeError, match="as planned"):
        Raise().before(0)


def test_drop_acts_in_its_exchange_and_nowhere_else():
    fault = Drop(exchange=2)
    fault.at_exchange(1)
    fault.before(None)
    fault.at_exchange(3)
    assert fault.after(UPDATE, generator()) is UPDATE
    with pytest.raises(PlannedFailure, match="dropped out at exchange 2, as planned"):
        fault.at_exchange(2)
    for usual in (Drop(), Drop("after")):
        usual.at_exchange(1)


def test_drop_refuses_an_exchange_that_a_round_does_not_have():
    facts = {"sizes": np.array([1, 2]), "cohort_size": 2, "splits": (), "has_client_tests": False}
    one = FederationFacts(**facts)
    four = replace(one, exchanges=("advertise_keys", "share_keys", "masked_input", "unmasking"))
    (error,) = Drop(exchange=5).check(four)
    assert "from 1 to 4: a round has the exchanges advertise_keys, share_keys, masked_input, unmasking" in str(error)
    assert [*Drop(exchange=4).check(four), *Drop().check(one), *Drop(exchange=1).check(one)] == []
    assert len(list(Drop(exchange=2).check(one))) == 1
    with pytest.raises(ConfigError, match="exchange"):
        Drop(exchange=0)


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
    """Return (key, value, is a warning) for each error in plans for four clients."""
    facts = FederationFacts(
        sizes=np.full(4, 10), cohort_size=2, splits=(), has_client_tests=False, rounds=rounds, **executor
    )
    errors = FailurePolicy(plans=plans).check(facts)
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
    assert errors_of(*plans, has_worker_processes=True, timeout_s=2.0) == []
    assert errors_of(*plans, has_worker_processes=True) == [("2.fault.seconds", 9.0, False)]
    assert errors_of(*plans) == [("1.fault", "CrashWorker", True), ("2.fault", "Hang", True)]


def test_count_of_lost_rounds_restarts_after_a_run_that_ended_because_of_them():
    assert [FailurePolicy(max_lost_rounds=3).carried_over(lost) for lost in (0, 2, 3, 5, 6)] == [0, 2, 0, 2, 0]
