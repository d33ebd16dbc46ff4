"""Measurements of one run: metric, costs, spread over clients, failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.reports.measures.columns import MESSAGES, best_metrics, column_value, cumulative_costs, finite_or_none
from fedlit.reports.measures.statistics import area_under_curve
from fedlit.runs.folder import FinishedRun
from fedlit.runs.metric_names import counterpart, is_evaluation, split_of

SPREAD = ("std", "lowest_tenth", "highest_tenth", "gini")


@dataclass(frozen=True)
class Criterion:
    """The metric by which runs are compared.

    Args:
        metric: name of the metric in the records.
        mode: `max` if larger values are better, `min` if smaller values are; None if unknown.
        target: value of the metric, or None.
    """

    metric: str
    mode: str | None
    target: float | None = None

    def reaches_target(self, value: float) -> bool:
        """Return True for a value at least as good as the target."""
        assert self.target is not None
        return value >= self.target if self.mode == "max" else value <= self.target


def make_criterion(
    runs: Sequence[FinishedRun], metric: str | None, mode: str | None, target: float | None
) -> Criterion:
    """Choose the metric by which runs are compared.

    Args:
        runs: finished runs.
        metric: name of the metric; None for the counterpart of the monitored metric on the test set or, if no run has it,
            on the clients' own test sets. If runs monitor different metrics, the most frequent counterpart is chosen.
        mode: `max`, `min`, or None for the mode of the monitored metric.
        target: value of the metric, or None.

    Raises:
        ConfigErrors: if no run has the metric, the target is not finite, or the target needs a mode that is unknown.
    """
    if target is not None and not math.isfinite(target):
        raise ConfigErrors([ConfigError("--target", target, "must be a finite number")])
    names = {name for run in runs for name in run.summary["last"]["metrics"]}
    monitored = Counter[tuple[str, str]]()
    for run in runs:
        available = [name for name in _test_metrics(run) if name in names]
        monitored.update((name, str(run.flat_config.get("monitor.mode"))) for name in available[:1])
    if metric is None and monitored:
        (metric, monitor_mode), _ = monitored.most_common(1)[0]
        return Criterion(metric, mode or monitor_mode, target)
    if metric is None or metric not in names:
        raise ConfigErrors([_unknown_metric(metric, sorted(filter(is_evaluation, names)))])
    modes = {monitor_mode for (name, monitor_mode) in monitored if name == metric}
    mode = mode or (modes.pop() if len(modes) == 1 else None)
    if target is not None and mode is None:
        problem = f"needs the mode of {metric}: are larger or smaller values better?"
        raise ConfigErrors([ConfigError("--target", target, problem, "add --mode max or --mode min")])
    return Criterion(metric, mode, target)


def _test_metrics(run: FinishedRun) -> tuple[str, str]:
    """Return the counterparts of the monitored metric on test sets.

    Returns:
        The names on the server's test set and on the clients' own, such as `test/loss` and `own/loss` for `val/loss`.
    """
    monitor = run.flat_config["monitor.name"]
    return counterpart(monitor, "test"), counterpart(monitor, "own")


def _unknown_metric(metric: str | None, names: Sequence[str]) -> ConfigError:
    problem = f"is in no run's records; the records have {', '.join(names) or 'no metric of an evaluation'}"
    value = metric or "the monitored metric on test sets"
    return ConfigError("--metric", value, problem, did_you_mean(metric or "", names))


def skip_reason(run: FinishedRun, criterion: Criterion, is_chosen: bool) -> str | None:
    """Return the reason why a run is not comparable, or None.

    Args:
        run: a finished run.
        criterion: the metric of the report.
        is_chosen: True if the user chose the metric. Only then it can differ from the counterpart of the monitored metric.
    """
    if criterion.metric not in run.summary["last"]["metrics"]:
        return f"has no {criterion.metric} in the last round"
    monitor, mode = run.flat_config["monitor.name"], run.flat_config.get("monitor.mode")
    is_counterpart = criterion.metric in _test_metrics(run)
    if not is_chosen and not is_counterpart:
        return f"monitors {monitor}; add --metric {criterion.metric} to include this run"
    if is_counterpart and criterion.mode is not None and mode != criterion.mode:
        return f"has monitor.mode={mode}, but the report uses mode {criterion.mode}"
    return None


def measure_run(run: FinishedRun, criterion: Criterion) -> dict[str, Any]:
    """Measure a run.

    A value is None where the run has no finite number.

    Returns:
        `best_round`, `objective` (the monitored metric at the best round), `best`, `last_round`, `last`, `area`, `rounds`,
        `bytes`, `wall_s`, `simulated_s`, `seconds`, the keys of `MESSAGES`, `spread` (at the best round), `failures` (by
        outcome), `lost_rounds` and, if there is a target, `target`: `rounds`, `bytes`, `wall_s`, `simulated_s` until the target
        was first reached, or None.
    """
    best, last = best_metrics(run), run.summary["last"]
    curve = np.array(run.metric_values(criterion.metric))
    finite = np.flatnonzero(np.isfinite(curve))
    costs = cumulative_costs(run)
    outcomes = Counter(str(failure["outcome"]) for record in run.records for failure in record["failures"])
    measures = {
        "best_round": run.summary["best"]["round"] if best else None,
        "objective": finite_or_none(best.get(run.flat_config["monitor.name"])),
        "best": finite_or_none(best.get(criterion.metric)),
        "last_round": last["round"],
        "last": finite_or_none(last["metrics"].get(criterion.metric)),
        "area": area_under_curve(finite + 1.0, curve[finite]) if len(finite) else None,
        **{name: finite_or_none(values[-1]) for name, values in costs.items()},
        "seconds": finite_or_none(run.summary.get("seconds")),
        **{name: column_value(run, column) for name, column in MESSAGES.items()},
        "spread": _spread_over_clients(best, criterion.metric),
        "failures": dict(sorted(outcomes.items())),
        "lost_rounds": sum(record.get("lost") is not None for record in run.records),
    }
    if criterion.target is None:
        return measures
    first = next((i for i in finite if criterion.reaches_target(curve[i])), None)
    if first is None:
        return measures | {"target": None}
    return measures | {"target": {name: finite_or_none(values[first]) for name, values in costs.items()}}


def _spread_over_clients(metrics: Mapping[str, Any], metric: str) -> dict[str, float | None] | None:
    """Return the spread of a test metric over clients; None if unmeasured."""
    if split_of(metric) == "val":  # clients have test sets only
        return None
    spread = {part: finite_or_none(metrics.get(f"{counterpart(metric, 'own')}_{part}")) for part in SPREAD}
    return spread if spread["std"] is not None else None


def mean_curve(runs: Mapping[int, FinishedRun], metric: str, over: str) -> dict[str, list[float]]:
    """Return the metric of each seed over `rounds` or `bytes`.

    The points are those at which all seeds have a value. Values are interpolated linearly if the runs have different costs.

    Returns:
        `x`, the points; and `seed N` for each seed, the values. Only an empty `x` if a seed has no values.
    """
    lines = {}
    for seed, run in runs.items():
        y, x = np.array(run.metric_values(metric)), cumulative_costs(run)[over]
        finite = np.isfinite(y) & np.isfinite(x)
        if not finite.any():
            return {"x": []}
        lines[seed] = x[finite], y[finite]
    low, high = max(x[0] for x, _ in lines.values()), min(x[-1] for x, _ in lines.values())
    points = np.unique(np.concatenate([x for x, _ in lines.values()]))
    if over == "rounds":  # rounds without an evaluation have no value
        points = points[[all(np.isin(point, x) for x, _ in lines.values()) for point in points]]
    points = points[(low <= points) & (points <= high)]
    curves = {f"seed {seed}": np.interp(points, x, y).tolist() for seed, (x, y) in lines.items()}
    return {"x": points.tolist(), **curves}
