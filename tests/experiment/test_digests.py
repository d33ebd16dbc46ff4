"""Runs with the same seed are paired, and the digests in their summaries show it."""

import json
from dataclasses import replace

import pytest
from conftest import federation

from fedlit.algorithms import FedAvg
from fedlit.algorithms.server_optimizers import Momentum
from fedlit.client.trainer import TrainerConfig
from fedlit.data import TensorSamples
from fedlit.experiment.digests import PairingDigests
from fedlit.server.checks.fingerprint import fingerprint
from fedlit.simulation.client_faults import Drop
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy, FaultPlan

pytestmark = pytest.mark.slow  # whole runs


def run_with_digests(fed):
    """The digests of a federation's rounds, and the failures of each round."""
    digests, failures = PairingDigests(fed), []
    for record in fed.run():
        digests.add(record)
        failures.append([(failure.client, failure.outcome) for failure in record.failures])
    return digests.summary(), failures


def with_dropouts(fed):
    return fed.with_worker(replace(fed.worker, faults=FailurePolicy(plans=(FaultPlan(Drop(), probability=0.5),))))


CHANGES = {
    "algorithm": lambda: federation(seed=3, algorithm=FedAvg(proximal=0.5)),
    "rate of the server": lambda: federation(seed=3, algorithm=FedAvg(lr=0.5, weights="uniform")),
    "local work": lambda: federation(seed=3, local_steps=2),
    "clipping": lambda: federation(seed=3, recipe=TrainerConfig({"accelerator": "cpu", "gradient_clip_val": 0.1})),
    "clock": lambda: replace(federation(seed=3), clock=VirtualClock(step_s=1, up_bytes_s=1e6, down_bytes_s=1e6)),
}


@pytest.mark.parametrize("make", CHANGES.values(), ids=CHANGES)
def test_runs_with_the_same_seed_are_paired_whatever_else_differs(make):
    digests, failures = run_with_digests(with_dropouts(federation(seed=3)))
    other, other_failures = run_with_digests(with_dropouts(make()))
    assert set(digests) == {"partition", "init", "cohorts", "batches"}
    assert other == digests
    assert other_failures == failures
    assert any(failures)  # a client did drop out


def test_another_seed_changes_every_digest():
    first, failures = run_with_digests(with_dropouts(federation(seed=3)))
    second, other_failures = run_with_digests(with_dropouts(federation(seed=4)))
    assert [name for name in first if first[name] == second[name]] == []
    assert failures != other_failures


def test_each_digest_depends_on_its_own_part():
    whole, _ = run_with_digests(federation(seed=3))

    def same(**changes):
        other, _ = run_with_digests(federation(seed=3, **changes))
        return {name for name in whole if whole[name] == other[name]}

    assert same(norm="batch") == {"partition", "cohorts", "batches"}  # another model
    assert same(cohort=3) == {"partition", "init"}
    assert same(samples=130) == {"init", "cohorts"}
    assert same(rounds=2) == {"partition", "init"}


def test_equal_digests_mean_equal_batches(monkeypatch):
    calls = []
    batches = TensorSamples.batches

    def spy(self, index, size, generator=None, drop_last=False):
        result = batches(self, index, size, generator, drop_last)
        if generator is not None:
            calls.append((generator.initial_seed(), index.tolist(), size))
        return result

    monkeypatch.setattr(TensorSamples, "batches", spy)
    seen = {}
    for seed, algorithm in ((3, FedAvg()), (3, FedAvg(proximal=1.0)), (4, FedAvg())):
        calls.clear()
        digests, _ = run_with_digests(federation(seed=seed, algorithm=algorithm))
        seen.setdefault(digests["batches"], []).append(list(calls))
    (first, second), (third,) = seen.values()
    assert first == second != third


def test_digest_of_batches_depends_on_the_round():
    fed = federation(seed=3, rounds=1)
    (record,) = fed.run()
    first, second = PairingDigests(fed), PairingDigests(fed)
    first.add(record)
    second.add(replace(record, number=2))
    assert first.summary()["batches"] != second.summary()["batches"]


def test_fingerprint_depends_on_seed_partition_model_and_algorithm():
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
