"""Seconds of a run's parts, measured as the run would run them.

Each part is measured for a limited time. Nothing of it is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np

from fedlit.client.evaluation import evaluate_split
from fedlit.core.tensors import Layout
from fedlit.data.protocols import Samples
from fedlit.executors.inline import torch_threads
from fedlit.experiment.plan.client_states import median_client
from fedlit.experiment.run import Run

BUDGET_S = 0.8
"""Seconds after which a part is not measured again."""

MAX_REPEATS = 5
"""Largest number of measurements of a part."""

MAX_STEPS = 33
"""Largest number of optimizer steps in the measurement of a fit."""

CHUNKS = 10
"""Chunks of a batch of an evaluation: the unit in its measurement."""

MAX_CHUNKS = 250
"""Largest number of chunks in the measurement of an evaluation."""


@dataclass(frozen=True)
class LinearCost:
    """Seconds of a work that grows with its number of units.

    Args:
        fixed: seconds without a unit, >= 0.
        unit: seconds of each unit, >= 0.
    """

    fixed: float
    unit: float

    def seconds(self, units: float) -> float:
        """Return the seconds of a number of units."""
        return self.fixed + self.unit * units


@dataclass(frozen=True)
class RunCosts:
    """Measured seconds of a run's jobs.

    Args:
        fit: a client's fit; its unit is an optimizer step.
        evaluations: evaluation of each split, and of the clients' own tests under `own`; the unit is a sample.
        loss_s: measuring the loss of a client of median size.
    """

    fit: LinearCost
    evaluations: Mapping[str, LinearCost]
    loss_s: float = 0.0


def measure_costs(run: Run, asks: bool) -> tuple[RunCosts, Layout]:
    """Measure the jobs of a run on a client of median size.

    Args:
        run: the run.
        asks: True if the server asks clients for their losses.

    Returns:
        The seconds, and the layout of an update.
    """
    client = median_client(run.federation.registry.sizes)
    fit, layout = _measure_fit(run, client)
    return RunCosts(fit, _measure_evaluations(run), _measure_loss(run, client) if asks else 0.0), layout


@contextmanager
def run_threads(run: Run) -> Iterator[None]:
    """Use as many torch threads within the block as the run."""
    with torch_threads(run.federation.executor.threads):
        yield


def measure_linear(work: Callable[[int], object], most: int) -> LinearCost:
    """Measure a work of few and of many units, in turn.

    It ends when `BUDGET_S` is over.

    Args:
        work: does the work with the given number of units.
        most: largest number of units to measure, >= 1.
    """
    first = _seconds(work, 1)  # the first also warms up
    many = min(most, max(3, int(BUDGET_S / 2 / max(first, 1e-9))))
    if many <= 1:
        return LinearCost(min(first, _seconds(work, 1)) if first < BUDGET_S else first, 0.0)
    short, long, end = [], [], time.perf_counter() + BUDGET_S
    while not long or (time.perf_counter() < end and len(long) < MAX_REPEATS):
        short.append(_seconds(work, 1))
        long.append(_seconds(work, many))
    unit = max(0.0, (median(long) - median(short)) / (many - 1))
    return LinearCost(max(0.0, median(short) - unit), unit)


def _seconds(work: Callable[[int], object], units: int) -> float:
    begin = time.perf_counter()
    work(units)
    return time.perf_counter() - begin


def _measure_fit(run: Run, client: int) -> tuple[LinearCost, Layout]:
    """Measure a client's fit; its unit is an optimizer step.

    Returns:
        The seconds, and the layout of an update.
    """
    layouts: list[Layout] = []

    def fit(steps: int) -> None:
        layouts[:] = [Layout.of(run.federation.dry_run(client, steps=steps)[1].groups)]

    cost = measure_linear(fit, MAX_STEPS)
    return cost, layouts[0]


def _measure_evaluations(run: Run) -> dict[str, LinearCost]:
    """Measure the evaluation of each split, and of the clients' own tests.

    A unit is a sample.

    Returns:
        The costs by the name of the split; `own` stands for the clients' own tests.
    """
    data = run.federation.worker.data
    sets: dict[str, Samples] = dict(data.splits)
    if data.client_tests is not None:
        sets["own"] = data.client_tests.samples
    return {name: _measure_split(run, name, samples) for name, samples in sets.items() if len(samples)}


def _measure_split(run: Run, name: str, samples: Samples) -> LinearCost:
    worker = run.federation.worker
    size, split = worker.data.loading.eval_batch_size, "test" if name == "own" else name
    chunk = max(1, min(size, len(samples)) // CHUNKS)

    def evaluate(chunks: int) -> None:
        batches = samples.batches(np.arange(chunks * chunk, dtype=np.int64), size)
        evaluate_split(worker.replica, worker.trainer_config, run.federation.initial, batches, split, worker.data)

    cost = measure_linear(evaluate, min(MAX_CHUNKS, len(samples) // chunk))
    return LinearCost(cost.fixed, cost.unit / chunk)


def evaluation_seconds(run: Run, costs: RunCosts, clients: Sequence[int]) -> list[float]:
    """Return the seconds of each job of a round's evaluation.

    Args:
        run: the run.
        costs: the measured costs.
        clients: clients whose own test sets are evaluated.
    """
    data = run.federation.worker.data
    splits = [costs.evaluations[name].seconds(len(samples)) for name, samples in data.splits.items() if len(samples)]
    if data.client_tests is None or "own" not in costs.evaluations:
        return splits
    sizes = data.client_tests.population.sizes
    return splits + [costs.evaluations["own"].seconds(float(sizes[client])) for client in clients]


def _measure_loss(run: Run, client: int) -> float:
    """Return the seconds of measuring a client's loss."""
    federation = run.federation
    local = federation.worker.local_trainer(0, client, {})
    model = federation.algorithm.model(federation.initial_state().shared)
    return _seconds(lambda _: local.loss(model), 1)
