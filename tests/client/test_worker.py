import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, holdings, pairs

from fedlit.aggregation.validation import invalid_values
from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import EvaluateJob, ServerState, Shared, TrainJob


def worker(rows, owner, algorithm=None, **recipe):
    bench = ModuleReplica(Quadratic(1.0))
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
