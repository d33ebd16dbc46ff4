"""Errors of other implementations that lie outside of an algorithm's file.

The numbers are those of the project's table. A change of the code that makes one of the errors must fail. Errors within an
algorithm are in test_closed_form.py.
"""

import pytest
import torch
from quadratics import mutated
from small import federation as images
from small import holdings, pairs
from test_closed_form import HALF, check, fedavg, scaffold
from test_server_optimizers import exact, path

import fedlit.client.callbacks
import fedlit.data.client_data
import fedlit.server.rounds
from fedlit.aggregation import MeanAggregator
from fedlit.algorithms import FedAvg, Scaffold
from fedlit.core.messages import Aggregate
from fedlit.core.model import Model


def test_4_the_last_update_instead_of_the_sum_fails(monkeypatch):
    check(FedAvg(), fedavg)
    mean = mutated("fedlit.aggregation.mean", ("return left.add_(right)", "return right"))
    monkeypatch.setattr(MeanAggregator, "merge", mean.MeanAggregator.merge)
    with pytest.raises(AssertionError):
        check(FedAvg(), fedavg)


def test_12_13_control_variates_with_the_rate_before_its_decay_fail(monkeypatch):
    decayed = {"lr": "step", "lr_every": 1, "lr_gamma": 0.5}
    check(Scaffold(), lambda s, m: scaffold(s, m, decay=HALF), **decayed)
    undecayed = mutated("fedlit.client.steps.displacement", ("moved += lr * step", "moved += 0.125 * step"))
    monkeypatch.setattr(fedlit.client.callbacks, "DisplacementTracker", undecayed.DisplacementTracker)
    check(Scaffold(), scaffold)  # without decay both agree
    with pytest.raises(AssertionError):
        check(Scaffold(), lambda s, m: scaffold(s, m, decay=HALF), **decayed)


def buffers(algorithm):
    """The server's buffers after a mean update of the buffers."""
    start = Model({"w": torch.zeros(1)}, {"mean": torch.tensor([1.0]), "count": torch.tensor(3)})
    step = {"mean": torch.tensor([0.5]).double(), "count": torch.tensor(2.0).double()}
    mean = Aggregate({"parameters": {"w": torch.ones(1).double()}, "buffers": step}, 2.0, 2, 4)
    after = algorithm.server(algorithm.init(start), mean).model.buffers
    return [float(after["mean"]), int(after["count"])]


def test_9_11_24_buffers_that_stay_or_move_by_the_servers_rate_fail():
    assert buffers(FedAvg(lr=0.1)) == [1.5, 5]
    stay = mutated("fedlit.algorithms.fedavg", ('"buffers": aggregate["buffers"]}', '"buffers": {}}'))
    assert buffers(stay.FedAvg(lr=0.1)) == [1.0, 3]
    scaled = mutated(
        "fedlit.algorithms.fedavg",
        ('"buffers": aggregate["buffers"]}', '"buffers": {n: self.lr * b for n, b in aggregate["buffers"].items()}}'),
    )
    assert buffers(scaled.FedAvg(lr=0.1)) != [1.5, 5]


def test_24_a_second_moment_that_starts_at_0_or_a_bias_correction_fails():
    servers = mutated("fedlit.algorithms.server_optimizers", ("zero + self.tau**2", "zero"))
    expected = exact("adam", "0.1", "0.9", "0.6", "0.99")
    parameters = path(servers.AdaptiveOptimizer(servers.Adam(0.99), lr=0.1, beta1=0.9, tau=0.6))
    assert parameters != pytest.approx(expected, abs=1e-6)
    corrected = mutated(
        "fedlit.algorithms.server_optimizers", ("self.lr * m[name] / (", "self.lr * m[name] / (1 - self.beta1) / (")
    )
    parameters = path(corrected.AdaptiveOptimizer(corrected.Adam(0.99), lr=0.1, beta1=0.9, tau=0.6))
    assert parameters != pytest.approx(expected, abs=1e-6)


def cohorts(seed):
    return [record.cohort for record in images(seed=seed, clients=10, cohort=3, samples=40).run()]


def test_28_cohorts_that_do_not_depend_on_the_seed_fail(monkeypatch):
    assert cohorts(0) != cohorts(1)
    change = ("stream(pool.seed, Purpose.COHORT", "stream(0, Purpose.COHORT")
    unseeded = mutated("fedlit.server.sampling.cohort", change)
    monkeypatch.setattr(fedlit.server.rounds, "draw_cohort", unseeded.draw_cohort)
    with pytest.raises(AssertionError):
        assert cohorts(0) != cohorts(1)


def first_batch(module, seed):
    data = holdings(pairs(*[(1.0, float(i)) for i in range(20)]), batch=20)
    seeded = module.ClientData(data.train, data.population, {}, data.loading, seed)
    return next(iter(seeded.train_batches(0, 0)))[0]


def test_29_batches_that_do_not_depend_on_the_seed_fail():
    original = fedlit.data.client_data
    assert not torch.equal(first_batch(original, 0), first_batch(original, 1))
    unseeded = mutated(
        "fedlit.data.client_data", ("torch_stream(self.seed, Purpose.LOADER", "torch_stream(0, Purpose.LOADER")
    )
    assert torch.equal(first_batch(unseeded, 0), first_batch(unseeded, 1))
