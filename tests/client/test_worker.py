from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, holdings, pairs

from fedlit.aggregation import Channel, Float32
from fedlit.aggregation.validation import invalid_values
from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import EvaluateJob, ServerState, Shared, TrainJob
from fedlit.core.model import Model
from fedlit.simulation.client_faults import Fault, PlannedFailure
from fedlit.simulation.faults import FailurePolicy, FaultPlan


def worker(rows, owner, algorithm=None, module=None, **recipe):
    bench = ModuleReplica(module or Quadratic(1.0))
    recipe = TrainerConfig({"accelerator": "cpu"}, **recipe)
    worker = ClientWorker(algorithm or FedAvg(), bench, recipe, holdings(pairs(*rows), owner, clients=3))
    return worker, ServerState(0, Shared(bench.read()))


def test_a_chunk_is_the_weighted_sum_of_its_clients_updates():
    work, state = worker([(1.0, 2.0), (1.0, 4.0), (1.0, -3.0)], [0, 0, 1])
    partial = work(TrainJob(0, 5, (0, 1)), state)
    moves = [0.1 * (3.0 - 1.0), 0.1 * (-3.0 - 1.0)]
    assert partial.total.item() == pytest.approx(2 * moves[0] + 1 * moves[1], abs=1e-6)
    assert partial.total.dtype == torch.float64
    assert (partial.index, partial.weight, partial.members, partial.failures, partial.steps) == (5, 3.0, (0, 1), (), 2)
    assert partial.up_bytes == 2 * (8 + 4)
    losses = [(0.5 * 1 + 0.5 * 9) / 2, 0.5 * 16]
    assert partial.metrics["train/loss"] == (pytest.approx(2 * losses[0] + losses[1], abs=1e-5), 3.0)


class WeightTensor(FedAvg):
    """Gives each client a tensor as its weight."""

    def weight(self, y):
        return torch.tensor(super().weight(y)) * 1.1


def test_a_weight_that_is_a_tensor_counts_as_a_number():
    partial, same = (
        work(TrainJob(0, 0, (0, 1)), state)
        for work, state in (worker([(1.0, 2.0), (1.0, 4.0)], [0, 1], algorithm) for algorithm in (WeightTensor(), None))
    )
    assert type(partial.weight) is float
    assert type(partial.sum_of_squares) is float
    assert partial.weight == pytest.approx(2.2, abs=1e-6)
    assert partial.total.item() == pytest.approx(1.1 * same.total.item(), abs=1e-6)


def test_a_client_without_samples_is_a_member_that_weighs_nothing():
    work, state = worker([(1.0, 2.0)], [0])
    partial = work(TrainJob(0, 0, (2, 0)), state)
    assert (partial.members, partial.weight) == ((2, 0), 1.0)
    assert partial.total.item() == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_update_that_is_not_finite_is_a_failure_and_not_in_the_sum(bad):
    work, state = worker([(1.0, 2.0), (1.0, bad)], [0, 1])
    partial = work(TrainJob(0, 0, (1, 0)), state)
    assert partial.members == (0,)
    assert partial.total.item() == pytest.approx(0.1)
    (failure,) = partial.failures
    assert (failure.client, failure.outcome, failure.reason) == (1, "not_finite", "1 of 1 numbers are NaN or infinite")
    assert set(partial.metrics) == {"train/loss"}
    assert np.isfinite(partial.metrics["train/loss"]).all()


def test_a_large_but_finite_update_differs_from_an_infinite_one():
    assert invalid_values(torch.full((4,), 3e38), 1.0) == ""
    assert invalid_values(torch.tensor([float("inf"), float("-inf")]), 1.0) == "2 of 2 numbers are NaN or infinite"
    assert invalid_values(torch.zeros(1), float("nan"))
    assert invalid_values(torch.zeros(1), -1.0)


def test_the_proximal_term_crosses_the_worker():
    plain, state = worker([(1.0, 2.0)], [0], steps=5)
    pulled, _ = worker([(1.0, 2.0)], [0], FedAvg(proximal=5.0), steps=5)
    w = 1.0
    for _ in range(5):
        w -= 0.1 * ((w - 2.0) + 5.0 * (w - 1.0))
    assert pulled(TrainJob(0, 0, (0,)), state).total.item() == pytest.approx(w - 1.0, abs=1e-6)
    assert plain(TrainJob(0, 0, (0,)), state).total.item() > w - 1.0


def test_evaluation_is_a_job_and_changes_nothing():
    fed = federation()
    state = fed.algorithm.init(fed.initial)
    first, again = (fed.worker(EvaluateJob(0, "test"), state).metrics for _ in range(2))
    assert first == again
    assert set(first) == {"test/loss", "test/accuracy"}
    assert fed.worker(EvaluateJob(0, "val"), state).split == "val"


class WiderUpdate(FedAvg):
    """Sends one client's difference in another shape."""

    def client(self, local, shared, client_state):
        update = super().client(local, shared, client_state)
        return replace(update, groups={"parameters": {"w": torch.ones(3)}}) if local.examples == 2 else update


def test_an_update_of_another_shape_is_a_failure_and_not_in_the_sum():
    work, state = worker([(1.0, 2.0), (1.0, 2.0), (1.0, 4.0)], [0, 0, 1], WiderUpdate())
    partial = work(TrainJob(0, 0, (0, 1)), state)
    assert partial.members == (1,)
    (failure,) = partial.failures
    assert (failure.client, failure.outcome) == (0, "bad_shape")
    assert failure.reason == "parameters/w is float32 [3], not float32 [1]"


def test_the_expected_layout_of_an_update_is_that_of_the_round():
    work, state = worker([(1.0, 2.0)], [0])
    wider = Model({"w": torch.zeros(3), "v": torch.zeros(2)}, {})
    later = ServerState(1, Shared(wider))
    assert work.update_template(state).groups["parameters"]["w"].shape == state.shared.model.parameters["w"].shape
    assert {name: tuple(t.shape) for name, t in work.update_template(later).groups["parameters"].items()} == {
        "w": (3,),
        "v": (2,),
    }


class CountingFault(Fault):
    """A planned failure that counts the attempts that it stops."""

    def __init__(self):
        self.attempts = []

    def before(self, attempt):
        self.attempts.append(attempt)
        raise PlannedFailure("planned")


def test_a_planned_failure_is_not_retried():
    fault = CountingFault()
    work, state = worker([(1.0, 2.0), (1.0, 4.0)], [0, 1])
    work = replace(work, faults=FailurePolicy("retry", retries=3, plans=(FaultPlan(fault, 1.0, clients=(0,)),)))
    partial = work(TrainJob(0, 0, (0, 1)), state)
    assert len(fault.attempts) == 1
    assert [(failure.client, failure.outcome) for failure in partial.failures] == [(0, "planned")]
    assert partial.members == (1,)


class SeenStates(FedAvg):
    """Notes the names in each client state, and keeps one group of its own."""

    def __init__(self, seen):
        super().__init__()
        object.__setattr__(self, "seen", seen)

    def client(self, local, shared, client_state):
        self.seen.append(sorted(client_state))
        return replace(super().client(local, shared, client_state), client_state={"mine": {"t": torch.ones(1)}})


def test_a_kept_optimizer_is_no_state_of_the_algorithm_and_stays_without_a_step():
    seen = []
    work, state = worker([(1.0, 2.0)], [0], SeenStates(seen), module=Quadratic(1.0, momentum=0.9), keep_optimizer=True)
    first = work(TrainJob(0, 0, (0,)), state).client_states[0]
    assert sorted(first) == ["mine", "optimizer/0/0"]
    again = work(TrainJob(1, 0, (0,), {0: first}, {0: 0}), state)  # a budget of no steps
    assert again.steps == 0
    assert seen == [[], [], ["mine"]]  # the first call has the layout of an update
    kept = again.client_states[0]
    assert sorted(kept) == ["mine", "optimizer/0/0"]
    assert kept["optimizer/0/0"]["momentum_buffer"].equal(first["optimizer/0/0"]["momentum_buffer"])


class Repacked(Float32):
    """The bytes of float32 numbers from a codec that the channel must not pass by."""

    def pack(self, vector, ticket):
        return memoryview(bytes(super().pack(vector, ticket)))


@pytest.mark.parametrize("max_norm", [None, 0.25])
def test_an_update_is_added_without_a_message_as_with_one(max_norm):
    rows, owner = [(1.0, 2.0), (1.0, 4.0), (1.0, float("nan"))], [0, 1, 2]
    plain, other = (
        replace(worker(rows, owner)[0], channel=channel, faults=FailurePolicy(max_norm=max_norm))
        for channel in (Channel(), Channel.of([Repacked()]))
    )
    assert (plain.channel.is_plain, other.channel.is_plain) == (True, False)
    job, state = TrainJob(0, 0, (0, 1, 2)), worker(rows, owner)[1]
    expected, partial = other(job, state), plain(job, state)
    assert partial.total.equal(expected.total)
    assert partial.members == ((0, 1) if max_norm is None else (0,))
    for name in (
        "members",
        "failures",
        "weight",
        "norms",
        "client_states",
        "up_bytes",
        "plain_bytes",
        "metrics",
        "steps",
    ):
        assert getattr(partial, name) == getattr(expected, name), name
