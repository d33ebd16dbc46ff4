"""Figures of the report: learning curves and differences from the baseline."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedlit.reports.render.tables import pluralize, scale_unit

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can distinguish, without the faint yellow.

Source: Okabe and Ito, https://jfly.uni-koeln.de/color/
"""
LINES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "fedlit",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""Settings with which the same report gives identical files."""


def save_figures(result: Mapping[str, Any], out: Path) -> list[str]:
    """Write curves.png and curves.svg and, if there are pairs, differences.png and differences.svg.

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
        for name, figure in figures.items():
            figure.savefig(out / f"{name}.png", dpi=150, metadata={"Software": None})
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    return [f"{name}.{kind}" for name in figures for kind in ("png", "svg")]


def draw_curves(result: Mapping[str, Any]) -> Figure:
    """Draw mean and interval over seeds, by rounds and by bytes."""
    labels = [_wrap(f"{one['group']} ({pluralize(one['n'], 'seed')})", 110) for one in result["groups"]]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(9, 3.6 + 0.22 * lines), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    max_bytes = max((one["bytes"]["x"][-1] for one in result["curves"] if one["bytes"]["x"]), default=0.0)
    size, unit = scale_unit(max_bytes, "B")
    for i, (one, label) in enumerate(zip(result["curves"], labels, strict=True)):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        _draw_line(left, one["rounds"], 1.0, label, style)
        _draw_line(right, one["bytes"], size, label, style)
    left.set_xlabel("round")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel(f"traffic in both directions ({unit})")
    left.set_ylabel(_escape(result["metric"]))
    for axes in (left, right):
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.set_xlim(left=0)
        if result["target"] is not None:
            axes.axhline(result["target"], color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    band = f", band: {100 * result['level']:g} % interval" if any(one["n"] > 1 for one in result["groups"]) else ""
    target = "" if result["target"] is None else f", grey: target {result['target']:g}"
    figure.suptitle(f"mean over seeds{band}{target}", fontsize=10)
    handles, _ = left.get_legend_handles_labels()
    figure.legend(handles, [_escape(label) for label in labels], loc="outside lower left", fontsize=8, frameon=False)
    return figure


def _draw_line(axes: Axes, band: Mapping[str, Any], size: float, label: str, style: Mapping[str, Any]) -> None:
    x = [value / size for value in band["x"]]
    marker = "o" if len(x) < 2 else None
    axes.plot(x, band["mean"], label=_escape(label), linewidth=1.6, marker=marker, **style)
    if band["low"] is not None:
        axes.fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.15, linewidth=0)


def draw_differences(result: Mapping[str, Any]) -> Figure:
    """Draw the differences from the baseline with their intervals, and each seed."""
    rows = [(one["group"], name, one[name]) for one in result["paired"] for name in ("best", "last") if one[name]]
    names = [f"{_wrap(label, 40)}\n{name} round, {pluralize(pairs['n'], 'pair')}" for label, name, pairs in rows]
    max_lines = max(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(9, 1.3 + (0.12 + 0.13 * max_lines) * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (_, name, pairs) in enumerate(rows):
        colour = COLOURS[0] if name == "best" else COLOURS[1]
        values = [*pairs["values"].values()]
        axes.plot(values, [y] * len(values), "o", color=colour, alpha=0.4, markersize=6, markeredgewidth=0)
        axes.errorbar(pairs["mean"], y, xerr=pairs["half"], fmt="D", color=colour, capsize=4, markersize=5)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_escape(name) for name in names], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    better = {"max": " (above 0 is better)", "min": " (below 0 is better)", None: ""}[result["mode"]]
    axes.set_xlabel(_escape(_wrap(f"{result['metric']}, difference from {result['baseline']}{better}", 90)))
    figure.suptitle(f"paired by seed: mean, {100 * result['level']:g} % interval, and each seed", fontsize=10)
    return figure


def _wrap(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False)


def _escape(text: str) -> str:
    """Escape text that matplotlib would draw as a formula."""
    return text.replace("$", r"\$")
