"""Limits in which an algorithm equals another, and the points of convergence."""

import itertools
from fractions import Fraction

import pytest
import torch
from conftest import Quadratic
from conftest import federation as images
from quadratics import CENTERS, CURVES, SIZES, federation, trained

from fedlit.algorithms import FedAvg, FedDyn, FedNova, QFedAvg, Scaffold
from fedlit.core.errors import ConfigError


def digests(algorithm, **setting):
    return [record.sha256 for record in images(algorithm=algorithm, norm="batch", **setting).run()]


def test_fedprox_with_mu_0_is_bit_identical_to_fedavg():
    assert digests(FedAvg(proximal=0.0)) == digests(FedAvg())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fednova_with_equal_steps_is_fedavg(momentum):
    setting = {"sizes": (4, 4, 4), "optimizer": {"momentum": momentum}, "cohort": 2}
    assert trained(FedNova(), **setting)[0] == pytest.approx(trained(FedAvg(), **setting)[0], abs=1e-6)


def test_the_first_round_of_scaffold_is_the_uniform_average():
    assert trained(Scaffold(), rounds=1) == trained(FedAvg(weights="uniform"), rounds=1)
    assert trained(Scaffold(), rounds=2)[0][1] != pytest.approx(
        trained(FedAvg(weights="uniform"), rounds=2)[0][1], abs=1e-4
    )


def test_qfedavg_with_q_0_is_the_uniform_average():
    fair, uniform = trained(QFedAvg(q=0.0, lr=0.3)), trained(FedAvg(weights="uniform"))
    assert fair[0] == pytest.approx(uniform[0], abs=1e-6)


def optimum(weights):
    """The minimum of sum w_i f_i."""
    return float(
        sum(w * a * b for w, a, b in zip(weights, CURVES, CENTERS, strict=True))
        / sum(w * a for w, a in zip(weights, CURVES, strict=True))
    )


def last_parameter(algorithm):
    return trained(algorithm, rounds=20, epochs=2, rate=Fraction(1, 4))[0][-1]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [Scaffold(), Scaffold(option=1), FedDyn(alpha=1.0)], ids=["2", "1", "feddyn"])
def test_drift_correction_reaches_the_optimum_of_the_uniform_objective(algorithm):
    best = optimum([1, 1, 1])
    assert last_parameter(algorithm) == pytest.approx(best, abs=1e-3)
    assert abs(last_parameter(FedAvg(weights="uniform")) - best) > 0.05


def fixed_point(algorithm, rate):
    """The fixed point of a round, which is affine in the parameter."""
    at_0, at_1 = (trained(algorithm, rate=rate, rounds=1, start=start)[0][0] for start in (0, 1))
    return at_0 / (1 - (at_1 - at_0))


def test_fednova_converges_to_the_weighted_optimum_for_small_rates_and_fedavg_does_not():
    best = optimum(SIZES)
    nova = [abs(fixed_point(FedNova(), Fraction(1, slow)) - best) for slow in (8, 16, 32, 64)]
    assert all(later < 0.6 * sooner for sooner, later in itertools.pairwise(nova))
    assert nova[-1] < 0.01
    assert abs(fixed_point(FedAvg(), Fraction(1, 64)) - best) > 0.1


@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold(), Scaffold(option=1)])
def test_an_adaptive_local_optimizer_is_refused(algorithm, monkeypatch):
    monkeypatch.setattr(Quadratic, "configure_optimizers", lambda module: torch.optim.Adam(module.parameters()))
    with pytest.raises(ConfigError) as error:
        next(federation(algorithm).run())
    assert (error.value.key, error.value.value) == ("model.optimizer", "Adam")


@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold()])
def test_momentum_kept_between_rounds_is_refused(algorithm):
    with pytest.raises(ConfigError) as error:
        next(federation(algorithm, optimizer={"momentum": 0.5}, client_state="keep").run())
    assert (error.value.key, error.value.value) == ("schedule.client_state", "keep")


@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold(), FedDyn(), QFedAvg(lr=0.1)])
def test_a_client_without_examples_changes_only_the_population(algorithm):
    records = list(federation(algorithm, sizes=(2, 4, 0)).run())
    assert [record.lost for record in records] == [None] * 3
    assert all(torch.isfinite(record.model.parameters["w"]) for record in records)


def test_the_record_has_the_drift():
    record = next(federation(Scaffold(), epochs=2).run())
    fed = federation(FedAvg(), epochs=2)
    fits = [fed.worker.local_trainer(0, client, {}).fit(fed.initial) for client in range(3)]
    moves = [float(fit.model.parameters["w"]) - 0.5 for fit in fits]
    mean = sum(moves) / 3
    assert record.metrics["drift/update_norm"] == pytest.approx(abs(mean), abs=1e-6)
    spread = (sum((move - mean) ** 2 for move in moves) / 3) ** 0.5
    assert record.metrics["drift/mean_distance"] == pytest.approx(spread, abs=1e-6)
    assert record.metrics["drift/control_norm"] > 0
    assert "drift/control_norm" not in next(federation(FedAvg()).run()).metrics
