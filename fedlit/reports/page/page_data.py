"""The numbers that the script of the page draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedlit.reports.measures.columns import (
    EPSILON,
    KINDS,
    column_kind,
    column_mode,
    column_names,
    column_unit,
    column_value,
    cumulative_costs,
)
from fedlit.reports.measures.statistics import student_quantile
from fedlit.reports.page.partitions import partition_pictures
from fedlit.reports.render.figures import MIN_BAND_SEEDS
from fedlit.reports.result import Report
from fedlit.runs.folder import FinishedRun
from fedlit.runs.metric_names import bounds, counterpart

MAX_NUMBERS = 350_000
"""Numbers of all curves together: about 3 MB. Longer curves are thinned."""
MIN_POINTS = 20
"""Points that a curve keeps, however many curves there are."""
AXES = {
    "rounds": ("round", ""),
    "bytes": ("traffic in both directions", "B"),
    "simulated_s": ("simulated time", "s"),
    "wall_s": ("time in rounds", "s"),
    EPSILON: ("epsilon", ""),
}
"""Label and unit of each quantity over which curves are drawn."""


def page_data(report: Report) -> dict[str, Any]:
    """Return the data of the page as JSON values.

    Numbers have six significant digits. A curve whose values are all equal is one number.
    """
    runs = [(i, run) for i, group in enumerate(report.groups) for run in group.runs.values()]
    names = column_names(run for _, run in runs)
    columns = {name: {run.folder: column_value(run, name) for _, run in runs} for name in names}
    names = [name for name in names if any(value is not None for value in columns[name].values())]
    metrics = [name for name in names if name not in cumulative_costs(runs[0][1])]
    axes = [name for name in AXES if any(np.isfinite(_axis_values(run, name)).any() for _, run in runs)]
    max_points = max(MIN_POINTS, MAX_NUMBERS // (len(runs) * (len(metrics) + len(axes))))
    values = report.values
    most = max(len(group.runs) for group in report.groups)
    return {
        "metric": values["metric"],
        "minBandSeeds": MIN_BAND_SEEDS,
        "quantiles": {n: float(student_quantile(n - 1)) for n in range(2, most + 1)},
        "groups": [{"label": group["group"]} for group in values["groups"]],
        "metrics": metrics,
        "units": {name: unit for name in metrics if (unit := _unit_of_round(name))},
        "limits": {name: _limits(name, columns[name]) for name in metrics},
        "axes": {name: {"label": AXES[name][0], "unit": AXES[name][1]} for name in axes},
        "columns": [_column(name, columns[name], values) for name in names],
        "plots": [[one["x"]["name"], one["y"]["name"]] for one in values["trade_offs"]],
        "runs": [
            {
                "group": i,
                "seed": run.seed,
                "columns": {name: _rounded(columns[name][run.folder]) for name in names},
                **_curves(run, metrics, axes, values["metric"], max_points),
            }
            for i, run in runs
        ],
        "ranges": range_pictures(values, _own_means(report, columns)),
        "partitions": partition_pictures(report.groups),
    }


def _curves(
    run: FinishedRun, metrics: Sequence[str], axes: Sequence[str], metric: str, max_points: int
) -> dict[str, Any]:
    kept = kept_rounds(np.array(run.metric_values(metric)), max_points)
    curves = {}
    for name in metrics:
        values = [_rounded(value) for value in np.array(run.metric_values(name))[kept]]
        if any(value is not None for value in values):
            curves[name] = values[0] if len({*values}) == 1 else values
    costs = {name: [_rounded(value) for value in _axis_values(run, name)[kept]] for name in axes}
    return {"axes": costs, "curves": curves}


def kept_rounds(curve: np.ndarray, max_points: int) -> np.ndarray:
    """Return the indices of the rounds that a thinned curve keeps.

    A longer curve keeps rounds with a value of the metric, evenly spaced, among them the first and the last.

    Args:
        curve: the metric's values by round; NaN for rounds without one.
        max_points: largest number of rounds to keep.
    """
    if len(curve) <= max_points:
        return np.arange(len(curve))
    measured = np.flatnonzero(np.isfinite(curve))
    return measured[np.unique(np.linspace(0, len(measured) - 1, min(len(measured), max_points)).round().astype(int))]


def _axis_values(run: FinishedRun, name: str) -> np.ndarray:
    return np.array(run.metric_values(EPSILON)) if name == EPSILON else cumulative_costs(run)[name]


def _column(name: str, column: Mapping[Any, float | None], report: Mapping[str, Any]) -> dict[str, Any]:
    low, high = _limits(name, column)
    mode = report["mode"] if name == report["metric"] and report["mode"] else column_mode(name)
    return {
        "name": name,
        "description": KINDS[column_kind(name)],
        "unit": column_unit(name),
        "mode": mode,
        "low": low,
        "high": high,
    }


def _limits(name: str, column: Mapping[Any, float | None]) -> list[float | None]:
    if column_kind(name) in ("total", "ratio"):
        return [0.0, None]
    ends = bounds(name, [value for value in column.values() if value is not None])
    return [end if math.isfinite(end) else None for end in ends]


def _unit_of_round(name: str) -> str:
    return column_unit(name) if column_kind(name) == "total" else ""


def _own_means(report: Report, columns: Mapping[str, Mapping[Any, float | None]]) -> list[float | None]:
    """Return each group's mean of the metric on clients' own test sets."""
    column = columns.get(counterpart(report.values["metric"], "own"), {})
    means = []
    for group in report.groups:
        values = [value for run in group.runs.values() if (value := column.get(run.folder)) is not None]
        means.append(sum(values) / len(values) if values else None)
    return means


def range_pictures(report: Mapping[str, Any], own_means: Sequence[float | None]) -> list[list[Any]]:
    """Return the pictures with a range for each group.

    Args:
        report: the report.
        own_means: each group's mean of the metric on clients' own test sets.

    Returns:
        For each picture its id in the page, its rows, its description, and the value of a vertical line or None.
    """
    numbers = {group["group"]: i for i, group in enumerate(report["groups"])}
    pictures = []
    for name in ("best", "last"):
        rows = [_row(numbers[one["group"]], one, one[name]) for one in report["paired"] if one[name]]
        if rows:
            description = f"difference of {report['metric']} from {report['baseline']}, {name} round"
            pictures.append([f"differences-{name}", rows, description, 0])
    spread = [_spread_row(i, group, own_means[i]) for i, group in enumerate(report["groups"]) if group["spread"]]
    rows = [row for row in spread if row is not None]
    if rows:
        pictures.append(["spread-chart", rows, f"spread of {report['metric']} over clients", None])
    return pictures


def _row(i: int, one: Mapping[str, Any], estimate: Mapping[str, Any]) -> dict[str, Any]:
    half = estimate["half"]
    text = f"{estimate['mean']:+.4g}" + (f" ± {half:.2g}" if half is not None else "")
    ends = {"low": _rounded(estimate["low"]), "middle": _rounded(estimate["mean"]), "high": _rounded(estimate["high"])}
    return {
        "group": i,
        "label": one["group"],
        "text": text,
        **ends,
        "dots": [_rounded(value) for value in estimate["values"].values()],
    }


def _spread_row(i: int, group: Mapping[str, Any], mean: float | None) -> dict[str, Any] | None:
    ends = [group["spread"][part] for part in ("lowest_tenth", "highest_tenth")]
    if mean is None or None in ends:
        return None
    low, high = (end["mean"] for end in ends)
    text = f"lowest tenth {low:.4g}, mean {mean:.4g}, highest tenth {high:.4g}"
    ends = {"low": _rounded(low), "middle": _rounded(mean), "high": _rounded(high)}
    return {"group": i, "label": group["group"], "text": text, **ends, "dots": []}


def _rounded(value: float | None) -> float | None:
    """Return the number with six significant digits; None for NaN and infinity."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
