"""Columns of a run: one number from all of its rounds.

A column is a metric of the records or a cost of the whole run. Its kind says how the numbers of the rounds become one number:

- `total`: the sum over the rounds, for amounts such as bytes, seconds, steps and failures;
- `best`: the value at the best round, for metrics of an evaluation;
- `ratio`: the ratio of the totals, for `comm/ratio`;
- `mean`: the mean over the rounds that have the metric, for shares of a round such as `privacy/clipped_fraction`;
- `last`: the value of the last round that has the metric, for all others. `privacy/epsilon` is spent by all rounds until then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fedlit.runs.folder import FinishedRun, to_float
from fedlit.runs.layout import OTHER_RECORD_KEYS
from fedlit.runs.metric_names import is_evaluation, preferred_mode

COSTS = ("rounds", "bytes", "wall_s", "simulated_s")
"""Costs of a whole run; `bytes` are those of both directions."""
AMOUNTS = {"clients/trained", "clients/failed", "clients/steps", "clients/asked", "clients/cut"}
"""Numbers of a round, besides bytes and seconds, that are added over the rounds."""
MEANS = {"privacy/clipped_fraction", "privacy/signal_to_noise"}
RATIO, EPSILON = "comm/ratio", "privacy/epsilon"
MODES = {RATIO: "max", EPSILON: "min", "privacy/signal_to_noise": "max"}
MESSAGES = {
    "up_bytes": "comm/up_bytes",
    "down_bytes": "comm/down_bytes",
    "ratio": RATIO,
    "epsilon": EPSILON,
    "clipped": "privacy/clipped_fraction",
}
"""Columns that a report has for every run, about what leaves the clients; by their names in the report."""
KINDS = {
    "total": "total of a run",
    "best": "at the best round",
    "ratio": "of a run's totals",
    "mean": "mean over rounds",
    "last": "after the last round",
}
"""The kinds of columns, with their description in a figure."""


def column_kind(name: str) -> str:
    """Return the kind of a column, a key of `KINDS`."""
    if name == RATIO:
        return "ratio"
    if name in COSTS or name in AMOUNTS or _is_amount(name):
        return "total"
    if is_evaluation(name):
        return "best"
    return "mean" if name in MEANS else "last"


def _is_amount(name: str) -> bool:
    return (name.startswith("comm/") and name.endswith("_bytes")) or (name.startswith("time/") and name.endswith("_s"))


def column_mode(name: str) -> str | None:
    """Return `max` or `min`, or None.

    It is `max` if larger values are better, `min` if smaller values are, and None if that is unknown.
    """
    if column_kind(name) == "total":
        return "min"
    return MODES.get(name) or preferred_mode(name)


def column_unit(name: str) -> str:
    """Return the unit of a column: `B`, `s` or none."""
    if column_kind(name) != "total":
        return ""
    return "B" if name.endswith("bytes") else "s" if name.endswith("_s") else ""


def column_names(runs: Iterable[FinishedRun]) -> list[str]:
    """Return the names of a run's columns: costs, then metrics."""
    keys = {key for run in runs for record in run.records for key in record}
    return [*COSTS, *sorted(keys - OTHER_RECORD_KEYS)]


def column_value(run: FinishedRun, name: str) -> float | None:
    """Return a run's finite number in a column, or None.

    A total needs a number in every round.
    """
    kind = column_kind(name)
    if name in COSTS:
        return finite_or_none(cumulative_costs(run)[name][-1])
    if kind == "best":
        return finite_or_none(best_metrics(run).get(name))
    values = np.array(run.metric_values(name))
    if kind == "total":
        return finite_or_none(values.sum())
    if kind == "ratio":
        return _ratio_of_totals(values, np.array(run.metric_values("comm/up_bytes")))
    present = np.array([name in record for record in run.records])
    if not present.any():
        return None
    return finite_or_none(values[present].mean() if kind == "mean" else values[present][-1])


def best_metrics(run: FinishedRun) -> Mapping[str, Any]:
    """Return the metrics of a run's best round.

    Without a validation split it is the last round. The result is empty if the monitored metric was never finite.
    """
    monitor, metrics = run.summary.get("monitor"), run.summary["best"]["metrics"]
    return metrics if monitor is None or finite_or_none(metrics.get(monitor)) is not None else {}


def _ratio_of_totals(ratios: np.ndarray, sent: np.ndarray) -> float | None:
    """Return all bytes before compression, over all bytes that were sent.

    A round in which nothing was sent has no ratio.
    """
    sent = np.where(np.isfinite(sent), sent, 0.0)
    rounds = sent > 0
    return finite_or_none((ratios[rounds] * sent[rounds]).sum() / sent[rounds].sum()) if rounds.any() else None


def cumulative_costs(run: FinishedRun) -> dict[str, np.ndarray]:
    """Return the costs up to each round, arrays of shape (rounds,).

    Returns:
        `rounds`, `bytes` in both directions, `wall_s` in rounds, `simulated_s`.
    """
    traffic = np.array(run.metric_values("comm/up_bytes")) + np.array(run.metric_values("comm/down_bytes"))
    return {
        "rounds": np.arange(1.0, len(run.records) + 1),
        "bytes": np.cumsum(traffic),
        "wall_s": np.cumsum(run.metric_values("time/round_s")),
        "simulated_s": np.cumsum(run.metric_values("time/simulated_s")),
    }


def finite_or_none(value: Any) -> float | None:
    """Return a finite number as a float, and None for other values."""
    return None if math.isnan(to_float(value)) else to_float(value)
