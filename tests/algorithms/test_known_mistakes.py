"""Mistakes of other implementations that are not in one algorithm's file, by the numbers of the table that is kept of them: a
change that makes one must show. Those within an algorithm are in algorithms/test_closed_form.py."""

import pytest
import torch
from quadratics import mutated
from small import federation as images
from small import holdings, pairs
from test_closed_form import HALF, check, fedavg, scaffold
from test_server_optimizers import exact, path

import fedlit.client.callbacks
import fedlit.server.federation
import fedlit.server.sampling.cohort
from fedlit.algorithms import FedAvg, Scaffold
from fedlit.core.messages import Aggregate
from fedlit.core.model import Model


def test_4_the_last_clients_update_in_place_of_the_sum_shows(monkeypatch):
    check(FedAvg(), fedavg)
    monkeypatch.setattr(
        fedlit.server.federation,
        "ReductionTree",
        mutated("fedlit.aggregation.mean", ("return left + right", "return right")).ReductionTree,
    )
    with pytest.raises(AssertionError):
        check(FedAvg(), fedavg)


def test_12_13_controls_by_the_rate_before_its_decay_show(monkeypatch):
    decayed = {"lr": "step", "lr_every": 1, "lr_gamma": 0.5}
    check(Scaffold(), lambda s, m: scaffold(s, m, decay=HALF), **decayed)
    undecayed = mutated("fedlit.client.displacement", ("moved += lr * step", "moved += 0.125 * step"))
    monkeypatch.setattr(fedlit.client.callbacks, "DisplacementTracker", undecayed.Odometer)
    check(Scaffold(), scaffold)  # nothing decays here
    with pytest.raises(AssertionError):
        check(Scaffold(), lambda s, m: scaffold(s, m, decay=HALF), **decayed)


def buffers(algorithm):
    """The server's buffers after a mean that says by how much they are to move."""
    start = Model({"w": torch.zeros(1)}, {"mean": torch.tensor([1.0]), "count": torch.tensor(3)})
    step = {"mean": torch.tensor([0.5]).double(), "count": torch.tensor(2.0).double()}
    mean = Aggregate({"parameters": {"w": torch.ones(1).double()}, "buffers": step}, 2.0, 2, 4)
    after = algorithm.server(algorithm.init(start), mean).model.buffers
    return [float(after["mean"]), int(after["count"])]


def test_9_11_24_buffers_that_stay_or_pass_through_the_servers_optimizer_show():
    assert buffers(FedAvg(lr=0.1)) == [1.5, 5]
    stay = mutated("fedlit.algorithms.fedavg", ('"buffers": mean["buffers"]}', '"buffers": {}}'))
    assert buffers(stay.FedAvg(lr=0.1)) == [1.0, 3]
    scaled = mutated(
        "fedlit.algorithms.fedavg",
        ('"buffers": mean["buffers"]}', '"buffers": {n: self.lr * b for n, b in mean["buffers"].items()}}'),
    )
    assert buffers(scaled.FedAvg(lr=0.1)) != [1.5, 5]


def test_24_a_second_moment_that_begins_at_0_or_is_corrected_shows():
    servers = mutated(
        "fedlit.algorithms.server_optimizers", ("torch.full_like(zero, self.tau**2)", "torch.zeros_like(zero)")
    )
    wanted = exact("adam", "0.1", "0.9", "0.6", "0.99")
    found = path(servers.Adaptive(servers.Adam(0.99), lr=0.1, beta1=0.9, tau=0.6))
    assert found != pytest.approx(wanted, abs=1e-6)
    corrected = mutated(
        "fedlit.algorithms.server_optimizers", ("self.lr * m[name] / (", "self.lr * m[name] / (1 - self.beta1) / (")
    )
    found = path(corrected.Adaptive(corrected.Adam(0.99), lr=0.1, beta1=0.9, tau=0.6))
    assert found != pytest.approx(wanted, abs=1e-6)


def cohorts(seed):
    return [record.cohort for record in images(seed=seed, clients=10, cohort=3, samples=40).run()]


def test_28_cohorts_that_do_not_depend_on_the_seed_show(monkeypatch):
    assert cohorts(0) != cohorts(1)
    monkeypatch.setattr(
        fedlit.server.federation,
        "allocate",
        mutated(
            "fedlit.server.sampling.cohort", ("stream(pool.seed, Purpose.COHORT", "stream(0, Purpose.COHORT")
        ).allocate,
    )
    with pytest.raises(AssertionError):
        assert cohorts(0) != cohorts(1)


def first_batch(module, seed):
    held = holdings(pairs(*[(1.0, float(i)) for i in range(20)]), batch=20)
    made = module.Holdings(held.train, held.population, {}, held.loading, seed)
    return next(iter(made.train_batches(0, 0)))[0]


def test_29_batches_that_do_not_depend_on_the_seed_show():
    import fedlit.data.client_data as plain

    assert not torch.equal(first_batch(plain, 0), first_batch(plain, 1))
    unseeded = mutated(
        "fedlit.data.client_data", ("torch_stream(self.seed, Purpose.LOADER", "torch_stream(0, Purpose.LOADER")
    )
    assert torch.equal(first_batch(unseeded, 0), first_batch(unseeded, 1))
