"""The measurements of a plan: exact for a linear cost, limited in time, with the threads of the run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from configured import build

from fedlit.experiment.plan import estimate, measure
from fedlit.experiment.plan.estimate import estimate_run
from fedlit.experiment.plan.measure import BUDGET_S, LinearCost, measure_linear


class SimulatedWork:
    """A work on a simulated clock; its first call is slower than the later ones."""

    def __init__(self, monkeypatch, fixed, unit, warm_up=0.0):
        self.now, self.fixed, self.unit, self.warm_up, self.calls = 0.0, fixed, unit, warm_up, []
        monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def __call__(self, units):
        self.now += self.fixed + self.unit * units + (0.0 if self.calls else self.warm_up)
        self.calls.append(units)


@pytest.mark.parametrize(
    ("fixed", "unit", "most"), [(0.005, 0.0009, 33), (0.02, 0.035, 33), (0.0, 0.3, 25), (1.0, 2.0, 33), (0.01, 0.0, 2)]
)
def test_a_linear_cost_is_measured_exactly_within_a_limited_time(monkeypatch, fixed, unit, most):
    work = SimulatedWork(monkeypatch, fixed, unit, warm_up=0.01)
    cost = measure_linear(work, most)
    assert (cost.fixed, cost.unit) == pytest.approx((fixed, unit), abs=1e-9)
    assert max(work.calls) <= most
    assert work.now <= max(3 * BUDGET_S, 6 * (fixed + unit) + 0.01)  # a heavy work: one and three units, once


def test_a_work_of_one_unit_is_its_fixed_cost(monkeypatch):
    assert measure_linear(SimulatedWork(monkeypatch, 0.1, 0.2), 1) == LinearCost(pytest.approx(0.3), 0.0)


@pytest.mark.slow
def test_the_plan_measures_with_the_threads_of_the_run(monkeypatch):
    threads, measured = torch.get_num_threads(), []

    def spy(run, asks):
        measured.append(torch.get_num_threads())
        return measure.measure_costs(run, asks)

    monkeypatch.setattr(estimate, "measure_costs", spy)
    try:
        torch.set_num_threads(2)
        estimate_run(build("schedule.rounds=1", "executor=inline", "executor.threads=1"))
        assert (measured, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_estimate_adds_the_jobs_of_each_round(monkeypatch):
    """With given costs the seconds follow from the cohorts' steps, the samples of the splits and the rounds."""
    run = build("schedule.rounds=3", "schedule.eval_every=2", "executor=inline")
    costs = measure.RunCosts(LinearCost(1.0, 0.1), {"val": LinearCost(2.0, 0.01), "test": LinearCost(3.0, 0.02)})
    original = measure.measure_costs
    monkeypatch.setattr(estimate, "measure_costs", lambda run, asks: (costs, original(run, asks)[1]))
    figures = estimate_run(run)
    records = list(run.federation.run())
    steps = run.federation.planned_steps(run.federation.registry.sizes)
    training = sum(3 * 1.0 + 0.1 * float(np.sum(steps[list(record.cohort)])) for record in records)
    splits = run.federation.worker.data.splits
    evaluation = 2.0 + 0.01 * len(splits["val"]) + 3.0 + 0.02 * len(splits["test"])
    evaluated = sum("test/loss" in record.metrics for record in records)
    assert evaluated == 2
    assert figures["evaluation_s"] == pytest.approx(evaluation)
    assert figures["seconds"] == pytest.approx(training + evaluated * evaluation + 3 * estimate.ROUND_S)


@pytest.mark.slow
def test_the_estimate_has_the_steps_of_the_clients_that_the_server_waits_for(monkeypatch):
    """A cohort is sorted by size: the fastest clients are not its first ones."""
    run = build("clock=lognormal", "schedule.over_select=1.5", "schedule.rounds=2", "executor=inline")
    costs = measure.RunCosts(LinearCost(0.0, 1.0), {name: LinearCost(0.0, 0.0) for name in ("val", "test")})
    original = measure.measure_costs
    monkeypatch.setattr(estimate, "measure_costs", lambda run, asks: (costs, original(run, asks)[1]))
    seconds = estimate_run(run)["seconds"] - 2 * estimate.ROUND_S
    assert seconds == pytest.approx(sum(record.metrics["clients/steps"] for record in run.federation.run()))
