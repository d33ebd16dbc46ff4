"""The plan and the summary of a run with differential privacy."""

import io
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
from conftest import federation
from rich.console import Console
from rich.table import Table

from fedlit.aggregation import Channel, Clip
from fedlit.aggregation.privacy.accounting import Accountant
from fedlit.client.dp_sgd import ExamplePrivacy
from fedlit.client.dp_sgd.accounting import ReleaseHistory, epsilon_of
from fedlit.core.facts import Sampling
from fedlit.experiment.observers.terminal import summary_table
from fedlit.experiment.plan.example_privacy import ExampleEstimate
from fedlit.experiment.plan.privacy import PrivacyEstimate, estimate_privacy, privacy_rows
from fedlit.experiment.run import Run
from fedlit.experiment.summary import RunTracker, protections
from fedlit.server.sampling import RoundRobin

pytest.importorskip("dp_accounting", reason="the extra dp is not installed")


@dataclass(frozen=True)
class Noisy(Clip):
    """A stage with an accountant, which changes nothing."""

    private: Accountant
    cohort: float | None = None

    @property
    def denominator(self):
        return self.cohort

    @cached_property
    def accountant(self):
        return self.private

    def factor(self, vector, ticket):
        return 1.0

    def statement(self):
        return self.private.statement("all data of one client", "whoever sees the released models")


class Plain(Noisy):
    @property
    def accountant(self):
        return None

    def statement(self):
        return None


def make_run(*stages, rounds=12, sampler=None):
    fed = federation(clients=4, cohort=2, rounds=rounds)
    fed = fed.with_worker(replace(fed.worker, channel=Channel.of(stages)))
    fed = fed if sampler is None else replace(fed, sampler=sampler)
    return Run(Path("nowhere"), {}, fed, None, {})  # type: ignore[arg-type]


def central(noise=2.0):
    return Accountant.of(Sampling("every", probability=1.0), 4, noise_multiplier=noise, delta=1e-3)


def table_text(rows):
    out, table = io.StringIO(), Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, text)
    Console(file=out, width=80).print(table)
    return out.getvalue()


def test_a_run_without_privacy_has_no_rows():
    run = make_run(Plain(central()))
    assert estimate_privacy(run, 100) is None
    assert privacy_rows(None) == {}
    assert protections(run.federation) == []


def test_noise_on_the_sum_is_charged_in_every_round_and_divided_by_the_expected_cohort():
    found = estimate_privacy(make_run(Noisy(central(), 3.0)), 400)
    assert found == PrivacyEstimate(central(), 12, central().epsilon(12), 3.0 / (2.0 * 20.0))
    text = table_text(privacy_rows(found))
    assert f"epsilon {central().epsilon(12):.4g} at delta 0.001, after 12 rounds in all;" in text
    assert "2; signal to noise of a round at most 0.075" in text
    assert max(map(len, text.splitlines())) <= 80


class EveryThird(RoundRobin):
    def sampling(self, clients):
        return Sampling("separated", separation=3, size=self.size)


def test_noise_of_clients_is_charged_in_their_own_rounds_and_grows_with_the_cohort():
    local = Accountant.local(noise_multiplier=5.0, delta=1e-3)
    found = estimate_privacy(make_run(Noisy(local), rounds=13, sampler=EveryThird(2)), 400)
    assert found == PrivacyEstimate(local, 5, local.epsilon(5), math.sqrt(2) / (5.0 * 20.0))
    assert "after 5 rounds of a client" in privacy_rows(found)["privacy"]


def test_distributed_noise_has_a_row_about_clients_that_collude():
    shared = Accountant.distributed(noise_multiplier=3.0, delta=1e-3, square=10**6, size=100)
    found = estimate_privacy(make_run(Noisy(shared), rounds=13, sampler=EveryThird(2)), 400)
    assert found == PrivacyEstimate(shared, 5, shared.epsilon(5), 2 / (3.0 * 20.0))
    rows, known = privacy_rows(found), shared.with_noise(6**0.5).epsilon(5)  # two thirds of the variance
    assert known > 1.1 * found.epsilon
    assert f"epsilon {known:.4g}, if a third of the clients in the smallest sum" in rows["if clients collude"]
    assert "after 5 rounds of a client; zero-out, by RDP of Skellam noise" in rows["privacy"]


def test_a_run_without_noise_has_an_infinite_epsilon():
    found = estimate_privacy(make_run(Noisy(central(0.0))), 400)
    assert (found.epsilon, found.signal_to_noise) == (math.inf, math.inf)
    assert privacy_rows(found)["noise multiplier"] == "0"
    assert "epsilon inf" in privacy_rows(found)["privacy"]


def test_the_summary_states_what_is_protected_against_whom_and_by_which_accountant():
    run = make_run(Noisy(central()), Plain(central()), rounds=1)
    tracker = RunTracker(run.federation.monitor, protections(run.federation))
    for record in run.federation.run():
        tracker.add(record)
    summary = json.loads(json.dumps(tracker.summary(1.0, 0)))
    (sentence,) = summary["protected"]
    assert sentence == (
        "All data of one client against whoever sees the released models: differential privacy at delta 0.001, "
        "add-or-remove, accounted by Gaussian composition; the noise follows from the seed, so it serves research only."
    )
    data = type("Named", (), {"name": "squares"})()
    names = {"model": "mlp", "algorithm": "fedavg"}
    table = summary_table(replace(run, data=data, names=names), summary)
    assert sentence in list(table.columns[1].cells)


def private_run(rounds=12, **privacy):
    """A run whose clients train by DP-SGD."""
    fed = federation(clients=4, cohort=2, rounds=rounds)
    config = replace(fed.trainer_config, privacy=ExamplePrivacy(**privacy), epochs=1)
    return Run(Path("nowhere"), {}, fed.with_worker(replace(fed.worker, trainer_config=config)), None, {}, ())


def test_the_plan_of_private_examples_has_their_epsilon_and_noise():
    run = private_run(noise_multiplier=1.5)
    estimate = estimate_privacy(run, 1)
    assert isinstance(estimate, ExampleEstimate)
    assert list(estimate.examples) == [30, 30, 30]
    spent = epsilon_of(ReleaseHistory(((1.5, 10 / 30, 3 * 12),)), 1e-5)
    assert list(estimate.epsilons) == [spent] * 3
    rows = privacy_rows(estimate)
    assert rows["privacy"].startswith(
        f"epsilon {spent:.4g} of an example at delta 1e-05, after 12 rounds of its client"
    )
    assert rows["noise multiplier"].startswith("1.5; signal to noise of a step at most 0.0")
    numbers = sum(tensor.numel() for tensor in run.federation.initial.parameters.values())
    assert estimate.signal_to_noise == pytest.approx(10 / (1.5 * math.sqrt(numbers)))


def test_without_noise_the_plan_states_an_infinite_epsilon():
    rows = privacy_rows(estimate_privacy(private_run(epsilon=math.inf), 1))
    assert rows["privacy"].startswith("epsilon inf of an example")
    assert rows["noise multiplier"] == "0"


def test_the_summary_says_that_examples_are_protected():
    (statement,) = protections(private_run(noise_multiplier=1.0).federation)
    assert statement.startswith("One example of one client against the server and everyone else: differential privacy")
    assert "seed" in statement
