"""Differential privacy in whole rounds: divisors under failures, empty cohorts, limits, a crash before a commit, resume."""

import functools
import math

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import TensorDataset

from fedlit import Channel, Checkpoints, FedAvg, Federation, Iid, Monitor, Schedule
from fedlit.aggregation.aggregator import ReductionTree
from fedlit.aggregation.privacy import DPFTRL, CentralDP, LocalDP
from fedlit.aggregation.privacy.ledger import list_releases
from fedlit.algorithms import FedNova, QFedAvg, Scaffold
from fedlit.core.errors import ConfigErrors
from fedlit.core.tensors import norm, sub
from fedlit.executors import Inline, Processes
from fedlit.server.outcome import sum_ticket
from fedlit.server.sampling import MinSeparation, Poisson, PowerOfChoice, Uniform
from fedlit.server.sampling.cohort import RoundPlan
from fedlit.simulation import Drop, FaultPlan
from fedlit.simulation.faults import FailurePolicy

CLIENTS, ROUNDS = 6, 4
HUGE = 1e6


class Line(LightningModule):
    """A linear model of 3 numbers."""

    def __init__(self, norm=False):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 1), *([torch.nn.BatchNorm1d(1)] if norm else []))

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.mse_loss(self.net(batch[0])[:, 0], batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.nn.functional.mse_loss(self.net(batch[0])[:, 0], batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def points(count=48, seed=0):
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x @ torch.tensor([1.0, -2.0]) + 0.5)


def federate(*stages, algorithm=None, rounds=ROUNDS, size=CLIENTS, quorum=1, model=Line, **parts):
    """A federation of 6 clients with these stages; all clients train in each round."""
    schedule = Schedule(rounds=rounds, clients_per_round=size, local_epochs=1, quorum=quorum, eval_every=rounds)
    arguments = {"seed": 0, "monitor": Monitor("val/loss", "min"), "log_warnings": False, **parts}
    algorithm = algorithm or FedAvg("uniform")
    return Federation.of(
        model, (points(), points(8, 1)), Iid(CLIENTS), algorithm, schedule, channel=Channel.of(stages), **arguments
    )


def steps(federation):
    """The change of the parameters in each round, and the records."""
    before, changes, records = federation.initial.parameters, [], list(federation.run())
    for record in records:
        changes.append(torch.cat([t.flatten() for t in sub(record.model.parameters, before).values()]))
        before = record.model.parameters
    return changes, records


def drop(probability, **plan):
    return FailurePolicy(plans=(FaultPlan(Drop(), probability, **plan),))


@pytest.mark.slow
def test_without_noise_and_clipping_it_is_the_uniform_average_bit_for_bit():
    _, private = steps(federate(CentralDP(clip=HUGE, epsilon=math.inf)))
    _, plain = steps(federate())
    for one, other in zip(private, plain, strict=True):
        assert all(torch.equal(one.model.parameters[name], t) for name, t in other.model.parameters.items())


@pytest.mark.slow
def test_a_failed_client_counts_as_an_update_of_zeros():
    """The divisor stays 6; the plain average divides by the 4 clients that sent."""
    stage = CentralDP(clip=HUGE, epsilon=math.inf)
    faults = drop(1.0, clients=(0, 3))
    (private, *_), records = steps(federate(stage, rounds=1, faults=faults))
    (plain, *_), _ = steps(federate(rounds=1, faults=faults))
    assert len(records[0].failures) == 2
    assert private.tolist() == pytest.approx((plain * 4 / 6).tolist(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["all clients fail", "nobody is sampled"])
def test_a_round_without_an_update_releases_noise(reason):
    parts = {"faults": drop(1.0)} if reason == "all clients fail" else {"sampler": functools.partial(Poisson, q=1e-3)}
    changes, records = steps(federate(CentralDP(clip=1.0, noise_multiplier=3.0, delta=1e-6), **parts))
    assert [record.lost for record in records] == [None] * ROUNDS
    assert all(float(change.norm()) > 0 for change in changes)
    assert records[-1].metrics["clients/trained"] == 0
    expected = [record.metrics["privacy/epsilon"] for record in records]
    assert expected == sorted(set(expected))


@pytest.mark.slow
def test_the_step_is_the_noisy_sum_divided_by_the_expected_cohort():
    noise = 500.0  # far more than the updates
    changes, _ = steps(federate(CentralDP(clip=1.0, noise_multiplier=noise), rounds=40, faults=drop(1.0)))
    numbers = torch.cat(changes)
    std = noise / CLIENTS
    assert abs(float(numbers.double().square().mean()) / std**2 - 1) <= 4 * math.sqrt(2 / len(numbers))


def test_metrics_of_clients_are_not_in_the_record():
    (_, records), (_, plain) = (
        steps(federate(*stages, rounds=1)) for stages in ([CentralDP(noise_multiplier=1.0)], [])
    )
    assert "train/loss" in plain[0].metrics
    names = {name for name in records[0].metrics if name.startswith(("train/", "drift/"))}
    assert names == set()
    assert {"privacy/epsilon", "privacy/clip", "privacy/clipped_fraction", "privacy/signal_to_noise"} <= records[
        0
    ].metrics.keys()


class KilledError(Exception):
    pass


class KilledCheckpoints(Checkpoints):
    """Checkpoints of a process that is killed before it commits a round."""

    def commit(self, state, client_states, record):
        if state.round == 3:
            raise KilledError
        super().commit(state, client_states, record)


MECHANISMS = {
    "central": (lambda: CentralDP(clip=0.5, noise_multiplier=1.0), {"sampler": functools.partial(Poisson, q=0.5)}),
    "adaptive": (lambda: CentralDP(clip="adaptive", noise_multiplier=0.2, count_noise=1.0), {}),
    "local": (lambda: LocalDP(clip=0.5, noise_multiplier=1.0), {}),
    "ftrl": (lambda: DPFTRL(clip=0.5, noise_multiplier=1.0), {"sampler": MinSeparation, "size": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
def test_a_round_that_is_repeated_after_a_crash_has_the_same_noise_and_is_charged_once(name, tmp_path):
    make, parts = MECHANISMS[name]
    unbroken = list(federate(make(), **parts).run())
    with pytest.raises(KilledError):
        list(federate(make(), checkpointer=KilledCheckpoints(tmp_path), **parts).run())
    federation = federate(make(), checkpointer=Checkpoints(tmp_path), **parts)
    resumed = list(federation.run())
    assert [record.number for record in resumed] == [3, 4]
    assert [record.sha256 for record in resumed] == [record.sha256 for record in unbroken[2:]]
    for one, other in zip(resumed, unbroken[2:], strict=True):
        assert one.metrics["privacy/epsilon"] == other.metrics["privacy/epsilon"]


@pytest.mark.slow
def test_the_checkpoint_has_the_list_of_releases(tmp_path):
    federation = federate(CentralDP(noise_multiplier=1.5), checkpointer=Checkpoints(tmp_path))
    list(federation.run())
    state = Checkpoints(tmp_path).load().state
    assert list_releases(state.channel["privacy"].private["releases"]) == ((1.5, ROUNDS),)


@pytest.mark.slow
def test_a_calibrated_run_cannot_be_resumed_for_other_rounds(tmp_path):
    """Its noise would be another, and its budget would be exceeded."""
    list(federate(CentralDP(epsilon=2.0), checkpointer=Checkpoints(tmp_path)).run())
    with pytest.raises(ConfigErrors, match="noise_multiplier"):
        list(federate(CentralDP(epsilon=2.0), rounds=2 * ROUNDS, checkpointer=Checkpoints(tmp_path)).run())


@pytest.mark.slow
def test_a_run_with_a_given_multiplier_goes_on_for_more_rounds(tmp_path):
    list(federate(CentralDP(noise_multiplier=1.0), checkpointer=Checkpoints(tmp_path)).run())
    longer = federate(CentralDP(noise_multiplier=1.0), rounds=ROUNDS + 2, checkpointer=Checkpoints(tmp_path))
    records = list(longer.run())
    assert [record.number for record in records] == [ROUNDS + 1, ROUNDS + 2]
    assert records[-1].metrics["privacy/epsilon"] == longer.channel.stages[0].accountant.epsilon(ROUNDS + 2)


@pytest.mark.slow
def test_worker_processes_have_the_same_bits():
    """Also with a clipping norm that the server sends to the clients."""
    make, parts = MECHANISMS["adaptive"]
    inline, processes = (
        [record.sha256 for record in federate(make(), executor=executor, **parts).run()]
        for executor in (Inline(), Processes(workers=2))
    )
    assert inline == processes


@pytest.mark.slow
def test_control_variates_are_noised_together_with_the_parameters():
    """With an empty cohort the server's control variate is noise alone, of the same scale."""
    federation = federate(CentralDP(clip=1.0, noise_multiplier=1.0), algorithm=Scaffold(), faults=drop(1.0), rounds=1)
    (record,) = federation.run()
    assert record.metrics["drift/control_norm"] > 0
    assert norm(sub(record.model.parameters, federation.initial.parameters)) > 0


REFUSALS = {
    "algorithm.weights": {"algorithm": FedAvg("examples")},
    "algorithm": {"algorithm": FedNova("uniform")},
    "algorithm ": {"algorithm": QFedAvg()},
    "algorithm.buffers": {"model": lambda: Line(norm=True)},
    "sampler": {"sampler": PowerOfChoice, "size": 2},
    "sampler ": {"sampler": lambda size: lambda pool, generator: [0]},
}


@pytest.mark.parametrize("key", REFUSALS)
@pytest.mark.parametrize(
    "stage", [CentralDP(noise_multiplier=1.0), LocalDP(noise_multiplier=1.0)], ids=["central", "local"]
)
def test_a_federation_that_the_noise_does_not_cover_is_refused(stage, key):
    with pytest.raises(ConfigErrors) as error:
        federate(stage, **REFUSALS[key])
    assert key.strip() in [one.key for one in error.value.errors]


def test_a_quorum_is_refused_with_noise_on_the_sum():
    with pytest.raises(ConfigErrors, match=r"schedule.quorum=2: loses a round"):
        federate(CentralDP(noise_multiplier=1.0), quorum=2)


@pytest.mark.slow
def test_clients_of_a_lost_round_are_charged_for_their_messages():
    federation = federate(LocalDP(noise_multiplier=4.0), quorum=5, faults=drop(1.0, clients=(0, 1), rounds=(2,)))
    records = list(federation.run())
    assert [record.lost is None for record in records] == [True, False, True, True]
    spent = [record.metrics["privacy/epsilon"] for record in records]
    assert spent == [federation.channel.stages[0].accountant.epsilon(rounds) for rounds in (1, 2, 3, 4)]


def test_clients_that_come_too_late_are_charged_too():
    """Their messages arrive after the round, and the server sees them."""
    federation = federate(LocalDP(noise_multiplier=4.0))
    state, plan = federation.initial_state(), RoundPlan(cohort=(4, 0, 2), clients=(0,))
    ticket = sum_ticket(federation, plan, state, ReductionTree(federation.aggregator), 1.0)
    _, after = federation.channel.open(federation.update_layout(state), torch.zeros(3).double(), ticket, state.channel)
    assert after["privacy"].private["participations"].tolist() == [1, 0, 1, 0, 1, 0]


def test_buffers_that_stay_with_the_server_are_accepted():
    federate(
        CentralDP(noise_multiplier=1.0), algorithm=FedAvg("uniform", buffers="server"), model=lambda: Line(norm=True)
    )


def test_a_sampler_of_fixed_size_is_accounted_as_such():
    bound = federate(CentralDP(noise_multiplier=1.0), sampler=Uniform, size=2).channel.stages[0]
    assert (bound.accountant.sampling.kind, bound.denominator) == ("fixed", 2.0)
