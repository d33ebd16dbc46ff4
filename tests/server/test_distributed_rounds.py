"""Distributed noise in the loop: the same bits with and without cryptography, losses down to the threshold, resume."""

from dataclasses import dataclass, replace

import pytest
import torch
from durable import Stopped
from test_resumed_privacy import KilledCheckpointer
from test_script import Net, toy

from fedlit import FedAvg, Federation, Iid, Loading, Schedule
from fedlit.aggregation import Channel
from fedlit.aggregation.privacy import DistributedDP
from fedlit.aggregation.secure import IdealSum, SecAgg
from fedlit.core.errors import ConfigErrors
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.sampling import Available, Poisson
from fedlit.simulation.client_faults import Corrupt, Drop, Fault
from fedlit.simulation.faults import FailurePolicy, FaultPlan

pytest.importorskip("dp_accounting", reason="the extra dp is not installed")
pytestmark = pytest.mark.slow  # whole runs

COHORT, NEEDED = 6, 5


def federate(encryption, faults=None, checkpointer=None, rounds=4, noise=0.5, **parts):
    """A federation of eight clients, six in a round, of which five must survive."""
    stages = [DistributedDP(noise_multiplier=noise, clip=0.5), encryption]
    return Federation.of(
        Net,
        (toy(64), toy(10, 1)),
        Iid(8),
        FedAvg(weights="uniform"),
        Schedule(rounds=rounds, clients_per_round=COHORT, local_steps=1),
        seed=0,
        loading=Loading(batch_size=5, val_fraction=0.0),
        channel=Channel.of(stages),
        faults=faults,
        checkpointer=checkpointer,
        **parts,
    )


def records(*arguments, **parts):
    return list(federate(*arguments, **parts).run())


@pytest.fixture(scope="module")
def masked():
    return records(SecAgg())


def drop(exchange, clients, **options):
    return FailurePolicy(plans=(FaultPlan(Drop(exchange=exchange), 1.0, clients, [2]),), **options)


def test_all_kinds_of_secure_sums_have_the_same_bits(masked):
    assert [record.lost for record in masked] == [None] * 4
    for other in (IdealSum(), SecAgg(neighbours=4)):
        assert [r.sha256 for r in records(other)] == [r.sha256 for r in masked]


def test_the_record_has_epsilon_and_noisy_figures_and_none_of_a_client(masked):
    names = {name for name in masked[-1].metrics if name.startswith("privacy/")}
    assert names == {f"privacy/{name}" for name in ("epsilon", "clip", "clipped_fraction", "signal_to_noise")}
    epsilons = [record.metrics["privacy/epsilon"] for record in masked]
    assert epsilons == sorted(epsilons)
    assert masked[-1].metrics["secure/clipped"] == 0
    assert masked[-1].clients == {}
    assert not {name for name in masked[-1].metrics if name.startswith(("drift/", "train/"))}


def test_survivors_at_the_threshold_have_a_sum_and_one_less_has_none(masked):
    cohort = masked[1].cohort
    few = records(SecAgg(), faults=drop(3, cohort[:1]))
    assert [record.lost for record in few] == [None] * 4
    assert few[1].metrics["clients/trained"] == NEEDED
    lost = records(SecAgg(), faults=drop(3, cohort[:2], max_lost_rounds=5))
    assert "secure sum is lost: 4 of 6 clients answered MaskedInput, and 5 are needed" in lost[1].lost
    assert [record.metrics["privacy/epsilon"] for record in lost] == [r.metrics["privacy/epsilon"] for r in masked]
    assert "privacy/clipped_fraction" not in lost[1].metrics
    assert records(IdealSum(), faults=drop(1, cohort[:1]))[1].sha256 == few[1].sha256


def test_a_failed_client_counts_as_zeros_and_changes_no_divisor(masked):
    """Without noise the sum of five is divided by six."""
    cohort = masked[0].cohort
    plans = FailurePolicy(plans=(FaultPlan(Drop(), 1.0, cohort[:1], [1]),))
    run = federate(IdealSum(), faults=plans, rounds=1, noise=0.0)
    assert run.channel.denominator == COHORT
    full, few = records(IdealSum(), rounds=1, noise=0.0)[0], next(iter(run.run()))
    start = run.initial.parameters
    moves = [{name: tensor - start[name] for name, tensor in r.model.parameters.items()} for r in (full, few)]
    for name, whole in moves[0].items():
        assert float((whole - moves[1][name]).norm()) <= 0.5 / COHORT + 1e-3
    assert records(IdealSum(), faults=plans, rounds=1, noise=0.0)[0].sha256 == few.sha256


@dataclass(frozen=True)
class Zero(Fault):
    """A client that sends zeros."""

    def after(self, update, generator):
        groups = {g: {n: torch.zeros_like(t) for n, t in tensors.items()} for g, tensors in update.groups.items()}
        return replace(update, groups=groups)


def test_clients_whose_update_is_not_finite_send_zeros_and_their_noise(masked):
    """Two failures would push the group below its threshold of five."""
    gone = masked[1].cohort[:2]
    invalid, zeros = (
        records(SecAgg(), faults=FailurePolicy(plans=(FaultPlan(fault, 1.0, gone, [2]),)))
        for fault in (Corrupt("nan"), Zero())
    )
    assert [record.sha256 for record in invalid] == [record.sha256 for record in zeros]
    assert invalid[1].sha256 != masked[1].sha256
    figures = [{n: v for n, v in r[1].metrics.items() if not n.startswith("time/")} for r in (invalid, zeros, masked)]
    assert figures[0] == figures[1]
    assert figures[0].keys() == figures[2].keys()
    assert (invalid[1].lost, invalid[1].failures, invalid[1].clients) == (None, (), {})
    assert figures[0]["clients/trained"] == COHORT


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_run_ends_with_the_bits_and_the_epsilon_of_an_unbroken_one(masked, moment, tmp_path):
    checkpointer = KilledCheckpointer(tmp_path)
    checkpointer.moment = moment
    with pytest.raises(Stopped):
        records(SecAgg(), checkpointer=checkpointer)
    after = records(SecAgg(), checkpointer=DiskCheckpointer(tmp_path))
    assert [record.number for record in after] == {"before": [3, 4], "after": [4]}[moment]
    assert after[-1].sha256 == masked[-1].sha256
    assert after[-1].metrics["privacy/epsilon"] == masked[-1].metrics["privacy/epsilon"]


def test_cohorts_that_are_too_small_for_the_noise_are_lost():
    """The sampler finds four available clients where six are planned."""
    policy = FailurePolicy(max_lost_rounds=99)
    patchy = records(IdealSum(), sampler=lambda size: Available(size, awake=0.6, period=5), faults=policy, rounds=10)
    small = [record for record in patchy if len(record.cohort) < NEEDED]
    assert small
    assert all("is too small: it needs 5" in record.lost for record in small)
    assert all(record.lost is None for record in patchy if len(record.cohort) >= NEEDED)


def test_poisson_sampling_is_refused():
    with pytest.raises(ConfigErrors, match="fewest survivors of a known cohort"):
        federate(SecAgg(), sampler=Poisson)
