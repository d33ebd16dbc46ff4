"""Where one algorithm becomes another, and where they come to in the end."""

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


def test_fedprox_without_its_term_is_fedavg_bit_for_bit():
    assert digests(FedAvg(proximal=0.0)) == digests(FedAvg())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fednova_with_equal_steps_is_fedavg(momentum):
    setting = {"sizes": (4, 4, 4), "optimizer": {"momentum": momentum}, "cohort": 2}
    assert trained(FedNova(), **setting)[0] == pytest.approx(trained(FedAvg(), **setting)[0], abs=1e-6)


def test_scaffolds_first_round_is_the_uniform_average():
    assert trained(Scaffold(), rounds=1) == trained(FedAvg(weights="uniform"), rounds=1)
    assert trained(Scaffold(), rounds=2)[0][1] != pytest.approx(
        trained(FedAvg(weights="uniform"), rounds=2)[0][1], abs=1e-4
    )


def test_qfedavg_without_fairness_is_the_uniform_mean():
    fair, uniform = trained(QFedAvg(q=0.0, lr=0.3)), trained(FedAvg(weights="uniform"))
    assert fair[0] == pytest.approx(uniform[0], abs=1e-6)


def optimum(weights):
    """Where sum w_i f_i is least."""
    return float(
        sum(w * a * b for w, a, b in zip(weights, CURVES, CENTERS, strict=True))
        / sum(w * a for w, a in zip(weights, CURVES, strict=True))
    )


def ends(algorithm):
    return trained(algorithm, rounds=20, epochs=2, rate=Fraction(1, 4))[0][-1]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [Scaffold(), Scaffold(option=1), FedDyn(alpha=1.0)], ids=["2", "1", "feddyn"])
def test_drift_is_corrected_down_to_the_optimum_of_the_uniform_objective(algorithm):
    best = optimum([1, 1, 1])
    assert ends(algorithm) == pytest.approx(best, abs=1e-3)
    assert abs(ends(FedAvg(weights="uniform")) - best) > 0.05


def fixed(algorithm, rate):
    """Where a round leads to where it began: it is affine in the parameter."""
    at_0, at_1 = (trained(algorithm, rate=rate, rounds=1, start=start)[0][0] for start in (0, 1))
    return at_0 / (1 - (at_1 - at_0))


def test_fednova_tends_to_the_weighted_optimum_as_the_rate_goes_to_0_and_fedavg_does_not():
    best = optimum(SIZES)
    nova = [abs(fixed(FedNova(), Fraction(1, slow)) - best) for slow in (8, 16, 32, 64)]
    assert all(later < 0.6 * sooner for sooner, later in itertools.pairwise(nova))
    assert nova[-1] < 0.01
    assert abs(fixed(FedAvg(), Fraction(1, 64)) - best) > 0.1


@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold(), Scaffold(option=1)])
def test_an_adaptive_local_optimizer_is_refused(algorithm, monkeypatch):
    monkeypatch.setattr(Quadratic, "configure_optimizers", lambda module: torch.optim.Adam(module.parameters()))
    with pytest.raises(ConfigError) as error:
        next(federation(algorithm).run())
    assert (error.value.key, error.value.value) == ("model.optimizer", "Adam")


@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold()])
def test_momentum_that_is_kept_is_refused(algorithm):
    with pytest.raises(ConfigError) as error:
        next(federation(algorithm, optimizer={"momentum": 0.5}, client_state="keep").run())
    assert (error.value.key, error.value.value) == ("schedule.client_state", "keep")


@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold(), FedDyn(), QFedAvg(lr=0.1)])
def test_a_client_without_samples_changes_nothing_but_the_population(algorithm):
    records = list(federation(algorithm, sizes=(2, 4, 0)).run())
    assert [record.lost for record in records] == [None] * 3
    assert all(torch.isfinite(record.model.parameters["w"]) for record in records)


def test_drift_is_in_the_record():
    record = next(federation(Scaffold(), epochs=2).run())
    ends = {client: federation(FedAvg(), epochs=2) for client in range(3)}
    moves = [
        float(f.worker.local_trainer(0, i, {}).fit(f.initial).model.parameters["w"]) - 0.5 for i, f in ends.items()
    ]
    mean = sum(moves) / 3
    assert record.metrics["drift/update_norm"] == pytest.approx(abs(mean), abs=1e-6)
    spread = (sum((move - mean) ** 2 for move in moves) / 3) ** 0.5
    assert record.metrics["drift/mean_distance"] == pytest.approx(spread, abs=1e-6)
    assert record.metrics["drift/control_norm"] > 0
    assert "drift/control_norm" not in next(federation(FedAvg()).run()).metrics
