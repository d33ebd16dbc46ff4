"""Ditto equals its paper, and a wrong line fails the test."""

from dataclasses import replace
from fractions import Fraction

import pytest
from quadratics import CENTERS, CURVES, RATE, SIZES, START, clients, federation, mutated, trained
from test_personalization import LastRound

from fedlit.algorithms import Ditto, FedAvg


def ditto(rounds, pull, cohorts, weights=(1, 1, 1)):
    """Run Algorithm 1 of Li et al. in rational numbers.

    Returns:
        The global model, and the personal model of each client that took part.
    """
    x, v = START, {}
    for cohort in cohorts[:rounds]:
        total, step = sum(weights[i] for i in cohort), Fraction(0)
        for i, local in clients(cohort).items():
            v[i] = local_fit(local, v.get(i, x), pull, x)
            step += Fraction(weights[i], total) * (local.fit(x) - x)
        x += step
    return x, v


def local_fit(local, start, mu, center):
    w = start
    for _ in range(local.steps):
        w -= RATE * (CURVES[local.client] * (w - CENTERS[local.client]) + mu * (w - center))
    return w


def run_ditto(algorithm, cohort=2):
    """Run a federation of quadratics.

    Returns:
        The global model, the personal model of each client that took part, and the cohorts.
    """
    last = LastRound()
    fed = replace(federation(algorithm, cohort=cohort), checkpointer=last)
    records = list(fed.run())
    personal = {client: float(own["ditto/parameters"]["w"]) for client, own in last.store.read(range(3)).items()}
    return float(last.state.model.parameters["w"]), personal, [record.cohort for record in records]


def check_ditto(algorithm, cohort=2, weights=(1, 1, 1)):
    x, personal, cohorts = run_ditto(algorithm, cohort)
    exact, v = ditto(3, Fraction(1, 2), cohorts, weights)
    assert x == pytest.approx(float(exact), abs=1e-6)
    assert personal == pytest.approx({client: float(value) for client, value in v.items()}, abs=1e-6)


@pytest.mark.parametrize("cohort", [3, 2])
def test_ditto_equals_the_paper(cohort):
    check_ditto(Ditto(pull=0.5), cohort)


@pytest.mark.parametrize("cohort", [3, 2])
def test_ditto_can_weigh_clients_by_their_examples(cohort):
    check_ditto(Ditto(pull=0.5, weights="examples"), cohort, SIZES)


@pytest.mark.parametrize(
    "change",
    [
        ("center=x.parameters", "center=update.groups['parameters']"),
        ("local.fit(start,", "local.fit(x,"),
        ("mu=self.pull", "mu=2 * self.pull"),
        ('] = "uniform"', '] = "examples"'),
    ],
)
def test_an_error_in_ditto_fails(change):
    ditto_module = mutated("fedlit.algorithms.personalization.ditto", change)
    with pytest.raises(AssertionError):
        check_ditto(ditto_module.Ditto(pull=0.5))


def test_clients_of_ditto_with_pull_0_train_alone():
    _, personal, _ = run_ditto(Ditto(pull=0.0), cohort=3)
    alone = {}
    for i, local in clients(range(3)).items():
        w = START
        for _ in range(3):
            w = local.fit(w)
        alone[i] = float(w)
    assert personal == pytest.approx(alone, abs=1e-6)


def test_the_global_model_of_ditto_is_that_of_fedavg():
    assert trained(Ditto(pull=0.5), cohort=2) == trained(FedAvg("uniform"), cohort=2)
