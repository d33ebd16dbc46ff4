"""Jobs with the same seed are paired, and their summaries can be asked whether they are."""

import json
from dataclasses import replace

import pytest
from conftest import federation

from fedlit.algorithms import FedAvg
from fedlit.algorithms.server_optimizers import Momentum
from fedlit.client.trainer import TrainerConfig
from fedlit.data import TensorSamples
from fedlit.experiment.digests import PairingDigests
from fedlit.server.fingerprint import fingerprint
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import Drop, FailurePolicy, FaultPlan

pytestmark = pytest.mark.slow  # whole runs


def followed(made):
    """The digests of a federation's rounds, and who was left out in each."""
    digests, left = PairingDigests(made), []
    for record in made.run():
        digests.add(record)
        left.append([(failure.client, failure.outcome) for failure in record.failures])
    return digests.summary(), left


def dropping(made):
    return replace(made, worker=replace(made.worker, faults=FailurePolicy(plans=(FaultPlan(Drop(), probability=0.5),))))


OTHERWISE = {
    "algorithm": lambda: federation(seed=3, algorithm=FedAvg(proximal=0.5)),
    "rate of the server": lambda: federation(seed=3, algorithm=FedAvg(lr=0.5, weights="uniform")),
    "local work": lambda: federation(seed=3, local_steps=2),
    "clipping": lambda: federation(seed=3, recipe=TrainerConfig({"accelerator": "cpu", "gradient_clip_val": 0.1})),
    "clock": lambda: replace(federation(seed=3), clock=VirtualClock(step_s=1, up_bytes_s=1e6, down_bytes_s=1e6)),
}


@pytest.mark.parametrize("make", OTHERWISE.values(), ids=OTHERWISE)
def test_runs_with_the_same_seed_are_paired_whatever_else_differs(make):
    digests, left = followed(dropping(federation(seed=3)))
    other, left_there = followed(dropping(make()))
    assert set(digests) == {"partition", "init", "cohorts", "batches"}
    assert other == digests
    assert left_there == left
    assert any(left)  # somebody did drop out


def test_another_seed_has_nothing_in_common():
    (first, left), (second, left_there) = followed(dropping(federation(seed=3))), followed(dropping(federation(seed=4)))
    assert [name for name in first if first[name] == second[name]] == []
    assert left != left_there


def test_each_digest_is_about_its_own_part():
    whole, _ = followed(federation(seed=3))

    def same(**changes):
        other, _ = followed(federation(seed=3, **changes))
        return {name for name in whole if whole[name] == other[name]}

    assert same(norm="batch") == {"partition", "cohorts", "batches"}  # another model
    assert same(cohort=3) == {"partition", "init"}
    assert same(samples=130) == {"init", "cohorts"}
    assert same(rounds=2) == {"partition", "init"}


def test_equal_digests_mean_equal_batches(monkeypatch):
    met = []
    batches = TensorSamples.batches

    def spied(self, index, size, generator=None, drop_last=False):
        made = batches(self, index, size, generator, drop_last)
        if generator is not None:
            met.append((generator.initial_seed(), index.tolist(), size))
        return made

    monkeypatch.setattr(TensorSamples, "batches", spied)
    seen = {}
    for seed, algorithm in ((3, FedAvg()), (3, FedAvg(proximal=1.0)), (4, FedAvg())):
        met.clear()
        digests, _ = followed(federation(seed=seed, algorithm=algorithm))
        seen.setdefault(digests["batches"], []).append(list(met))
    (first, second), (third,) = seen.values()
    assert first == second != third


def test_batches_are_those_of_their_round():
    made = federation(seed=3, rounds=1)
    (record,) = made.run()
    (first, second) = (PairingDigests(made), PairingDigests(made))
    first.add(record)
    second.add(replace(record, number=2))
    assert first.summary()["batches"] != second.summary()["batches"]


def test_what_makes_an_experiment_tells_seeds_partitions_models_and_algorithms():
    def differs(**other):
        before, now = fingerprint(federation(lr="constant")), fingerprint(federation(**{"lr": "constant", **other}))
        return {key for key in {**before, **now} if before.get(key) != now.get(key)}

    assert differs() == differs(rounds=9, eval_every=3, stop_at=0.5) == set()
    assert differs(seed=1) == {"seed", "partition"}
    assert differs(samples=119) == {"partition"}
    assert differs(norm="batch") == {"layout"}
    assert differs(cohort=3) == {"schedule.cohort"}
    assert differs(algorithm=FedAvg(proximal=0.1)) == {"algorithm.proximal"}
    assert differs(lr="cosine", rounds=9) == {"schedule.lr", "schedule.rounds"}
    nested = {
        key for key in differs(algorithm=FedAvg(optimizer=Momentum(lr=0.2))) if key.startswith("algorithm.optimizer")
    }
    assert {"algorithm.optimizer", "algorithm.optimizer.lr"} <= nested
    assert json.loads(json.dumps(fingerprint(federation()))) == fingerprint(federation())
