"""Trade-off of two columns over groups of runs, with its Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.reports.measures.columns import column_kind, column_mode, column_names, column_unit, column_value
from fedlit.reports.measures.metrics import Criterion
from fedlit.reports.measures.statistics import Estimate
from fedlit.runs.folder import FinishedRun

Runs = Mapping[int, FinishedRun]
"""The runs of a group, by seed."""


def parse_plots(texts: Sequence[str], groups: Sequence[Runs]) -> list[tuple[str, str]]:
    """Return the pairs of columns of `X:Y` texts.

    Args:
        texts: arguments of `--plot`.
        groups: the runs of each group.

    Raises:
        ConfigErrors: with each text that is not two columns which at least one run has both.
    """
    runs = [run for group in groups for run in group.values()]
    names = column_names(runs) if texts else []
    errors, pairs = [], []
    for text in texts:
        x, _, y = text.partition(":")
        unknown = [name for name in (x, y) if name not in names]
        if not x or not y:
            errors.append(ConfigError("--plot", text, "must be two columns, X:Y", "e.g. comm/up_bytes:test/accuracy"))
        elif unknown:
            hint = did_you_mean(unknown[0], names) or f"the columns are {', '.join(names)}"
            errors.append(ConfigError("--plot", text, f"{unknown[0]} is in no run's records", hint))
        elif not any(None not in (column_value(run, x), column_value(run, y)) for run in runs):
            errors.append(ConfigError("--plot", text, "no run has finite values of both columns"))
        else:
            pairs.append((x, y))
    if errors:
        raise ConfigErrors(errors)
    return pairs


def make_trade_off(x: str, y: str, groups: Sequence[Runs], criterion: Criterion) -> dict[str, Any]:
    """Return the trade-off of two columns as JSON values.

    Returns:
        `x` and `y`, each with `name`, `kind`, `unit` and `mode`; `points`, for each group the estimates of `x` and `y`, None
        where its runs have no number; and `front`, the indices of the groups that no other group dominates, ascending, or None
        if it is unknown which values are better.
    """
    axes = {axis: _axis(name, criterion) for axis, name in (("x", x), ("y", y))}
    points = [{axis: _estimate(runs, one["name"]) for axis, one in axes.items()} for runs in groups]
    modes = axes["x"]["mode"], axes["y"]["mode"]
    front = None
    if None not in modes:
        means = [_means(point) for point in points]
        front = pareto_front(means, tuple(mode == "max" for mode in modes))
    return {**axes, "points": points, "front": front}


def pareto_front(points: Sequence[tuple[float, float] | None], is_max: tuple[bool, ...]) -> list[int]:
    """Return the indices of the points that no other point dominates.

    A point dominates another one if it is at least as good in both coordinates and better in one.

    Args:
        points: pairs of coordinates; None for no point.
        is_max: for each coordinate, True if larger values are better.
    """
    costs = {
        i: tuple(-value if larger else value for value, larger in zip(point, is_max, strict=True))
        for i, point in enumerate(points)
        if point is not None
    }

    def is_dominated(a: tuple[float, ...]) -> bool:
        return any(b != a and all(p <= q for p, q in zip(b, a, strict=True)) for b in costs.values())

    return [i for i, cost in costs.items() if not is_dominated(cost)]


def _axis(name: str, criterion: Criterion) -> dict[str, Any]:
    mode = criterion.mode if name == criterion.metric and criterion.mode else column_mode(name)
    return {"name": name, "kind": column_kind(name), "unit": column_unit(name), "mode": mode}


def _estimate(runs: Runs, name: str) -> dict[str, Any] | None:
    values = {seed: value for seed, run in runs.items() if (value := column_value(run, name)) is not None}
    estimate = Estimate.of(values)
    return None if estimate is None else estimate.to_dict()


def _means(point: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if None in (point["x"], point["y"]) else (point["x"]["mean"], point["y"]["mean"])
