"""Figures of the report: learning curves and differences from the baseline."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlit.core.files import write_atomic
from fedlit.reports.render.cells import pluralize, scale_unit
from fedlit.reports.render.style import COLOURS, FORMATS, LINES, STYLE, wrap
from fedlit.reports.render.trade_off_figure import draw_trade_off, trade_off_names
from fedlit.runs.metric_names import bounds

MIN_BAND_SEEDS = 5
"""Seeds from which on an interval is drawn as a band; of fewer seeds, each is a thin line."""
MAX_CURVES = 20
"""Groups in the figure of curves: more cannot be told apart."""
MAX_DIFFERENCES = 30
"""Groups in the figure of differences."""


def save_figures(result: Mapping[str, Any], out: Path) -> list[str]:
    """Write each figure as PNG and as SVG.

    The figures are curves, differences if there are pairs, and the trade-offs.

    Args:
        result: the report.
        out: existing folder for the files.

    Returns:
        The names of the files.
    """
    with matplotlib.rc_context(STYLE):
        figures = {"curves": draw_curves(result)}
        if any(one["last"] for one in result["paired"]):
            figures["differences"] = draw_differences(result)
        for name, trade_off in zip(trade_off_names(result), result["trade_offs"], strict=True):
            figures[name] = draw_trade_off(result, trade_off)
        for name, figure in figures.items():
            for kind, options in FORMATS.items():
                content = io.BytesIO()
                figure.savefig(content, format=kind, **options)
                write_atomic(out / f"{name}.{kind}", content.getvalue())
    return [f"{name}.{kind}" for name in figures for kind in FORMATS]


def draw_curves(result: Mapping[str, Any]) -> Figure:
    """Draw mean and spread over seeds, by rounds and by bytes.

    The vertical axis is that of the seeds' values. Bands stay within the bounds of the metric. Of a search, all trials but the
    best are grey.
    """
    chosen, num_grey = _choose_groups(result)
    groups, curves = ([result[name][i] for i in chosen] for name in ("groups", "curves"))
    labels = [f"{one['group']} ({pluralize(one['n'], 'seed')})" for one in groups]
    if num_grey:  # these are drawn first, and have one line in the legend
        labels = [f"{pluralize(num_grey, 'other trial')}", *["_"] * (num_grey - 1), f"best trial: {labels[-1]}"]
    labels = [wrap(label, 110) for label in labels]
    figure, left, right = _make_axes(sum(label.count("\n") + 1 for label in labels if label != "_"))
    max_bytes = max((one["bytes"]["x"][-1] for one in curves if one["bytes"]["x"]), default=0.0)
    size, unit = scale_unit(max_bytes, "B")
    values = [value for one in curves for seed in one["rounds"]["seeds"].values() for value in seed]
    limits = bounds(result["metric"], values)
    for i, (one, label) in enumerate(zip(curves, labels, strict=True)):
        k = i - num_grey
        style = {"color": COLOURS[k % len(COLOURS)], "linestyle": LINES[k % len(LINES)], "linewidth": 1.8}
        if i < num_grey:
            style = {"color": "0.7", "linewidth": 0.8}
        _draw_line(left, one["rounds"], 1.0, limits, label, style)
        _draw_line(right, one["bytes"], size, limits, label, style)
    right.set_xlabel(f"traffic in both directions ({unit})")
    left.set_ylabel(wrap(result["metric"], 60))
    left.set_ylim(*_padded(values if result["target"] is None else [*values, result["target"]]))
    for axes in (left, right):
        axes.set_xlim(left=0)
        if result["target"] is not None:
            axes.axhline(result["target"], color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    figure.suptitle(_curves_title(result, groups), fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", fontsize=8, frameon=False)
    return figure


def _choose_groups(result: Mapping[str, Any]) -> tuple[list[int], int]:
    """Choose the groups with a curve.

    Returns:
        The groups' indices: of a search all trials with the best as the last one, else the best MAX_CURVES groups; and the
        number of grey curves, which come first.
    """
    if result["search"]:
        ranking = [trial["index"] for trial in result["search"]["ranking"]]
        return ranking[::-1], len(ranking) - 1
    groups, sign = result["groups"], {"max": -1.0, "min": 1.0, None: 0.0}[result["mode"]]
    ranked = sorted(
        range(len(groups)), key=lambda i: sign * groups[i]["best"]["mean"] if groups[i]["best"] else math.inf
    )
    return sorted(ranked[:MAX_CURVES]), 0


def _make_axes(legend_lines: int) -> tuple[Figure, Axes, Axes]:
    """Return a figure with axes over rounds and over bytes."""
    figure = Figure(figsize=(9, 3.6 + 0.22 * legend_lines), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_xlabel("round")
    left.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(alpha=0.3, linewidth=0.6)
    return figure, left, right


def _curves_title(result: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    numbers = [one["n"] for one in groups]
    parts = ["mean over seeds" if max(numbers) > 1 else "one seed each" if len(groups) > 1 else "one seed"]
    if any(1 < n < MIN_BAND_SEEDS for n in numbers):
        parts.append("thin: each seed")
    if max(numbers) >= MIN_BAND_SEEDS:
        parts.append(f"band: {100 * result['level']:g} % interval")
    if result["target"] is not None:
        parts.append(f"dotted: target {result['target']:g}")
    if len(groups) < len(result["groups"]):
        parts.append(f"the {'best' if result['mode'] else 'first'} {len(groups)} of {len(result['groups'])} groups")
    return ", ".join(parts)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis around the values, with a margin."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _draw_line(
    axes: Axes,
    curve: Mapping[str, Any],
    size: float,
    limits: tuple[float, float],
    label: str,
    style: Mapping[str, Any],
) -> None:
    """Draw a group's mean, and its interval or its few seeds."""
    x = [value / size for value in curve["x"]]
    marker = "o" if len(x) < 2 else None
    axes.plot(x, curve["mean"], label=label, marker=marker, **style)
    seeds = curve["seeds"].values()
    if len(seeds) >= MIN_BAND_SEEDS:
        low, high = ([min(max(value, limits[0]), limits[1]) for value in curve[end]] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    elif len(seeds) > 1:
        for values in seeds:
            axes.plot(x, values, color=style["color"], linewidth=0.6, alpha=0.6, marker=marker, markersize=3)


def draw_differences(result: Mapping[str, Any]) -> Figure:
    """Draw the differences from the baseline with their intervals, and each seed.

    Of many groups the first MAX_DIFFERENCES are drawn.
    """
    rows = [one for one in result["paired"] if one["best"] or one["last"]]
    rows, num_rows = rows[:MAX_DIFFERENCES], len(rows)
    names = [f"{wrap(one['group'], 40)}\n{pluralize(one['n'], 'pair')}" for one in rows]
    figure = Figure(
        figsize=(9, 1.6 + sum(max(0.42, 0.14 * (name.count("\n") + 1)) for name in names)), layout="constrained"
    )
    axes = figure.subplots()
    for name, colour, offset in (("best", COLOURS[0], -0.15), ("last", COLOURS[1], 0.15)):
        style = {"fmt": "D", "color": colour, "capsize": 3, "markersize": 4, "label": f"{name} round"}
        for y, pairs in ((y, one[name]) for y, one in enumerate(rows) if one[name]):
            values = [*pairs["values"].values()]
            seeds = {"color": colour, "alpha": 0.4, "markersize": 5, "markeredgewidth": 0}
            axes.plot(values, [y + offset] * len(values), "o", **seeds)
            axes.errorbar(pairs["mean"], y + offset, xerr=pairs["half"], **style)
            style.pop("label", None)  # once in the legend
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    better = {"max": " (above 0 is better)", "min": " (below 0 is better)", None: ""}[result["mode"]]
    axes.set_xlabel(wrap(f"{result['metric']}, difference from {result['baseline']}{better}", 90))
    more = f", the first {len(rows)} of {num_rows} groups" if len(rows) < num_rows else ""
    figure.suptitle(f"paired by seed: mean, {100 * result['level']:g} % interval, and each seed{more}", fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", fontsize=8, frameon=False, ncols=2)
    return figure
