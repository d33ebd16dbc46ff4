"""Learning curves: the mean over seeds and its interval as a band, over rounds and over bytes."""

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
"""Okabe and Ito's, https://jfly.uni-koeln.de/color/, which the colour-blind can tell apart; without yellow, which is faint."""
LINES = ("-", "--", ":", "-.")
STEADY: dict[Any, Any] = {
    "svg.hashsalt": "fedlit",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""The same report gives the same files."""


def save_figures(found: Mapping[str, Any], out: Path) -> list[str]:
    """Writes curves.png and curves.svg, and differences.png and .svg if there are pairs; their names."""
    with matplotlib.rc_context(STEADY):
        figures = {"curves": draw_curves(found)}
        if any(one["last"] for one in found["paired"]):
            figures["differences"] = draw_differences(found)
        for name, figure in figures.items():
            figure.savefig(out / f"{name}.png", dpi=150, metadata={"Software": None})
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    return [f"{name}.{kind}" for name in figures for kind in ("png", "svg")]


def draw_curves(found: Mapping[str, Any]) -> Figure:
    """The metric over rounds and over bytes."""
    labels = [_folded(f"{one['group']} ({pluralize(one['n'], 'seed')})", 110) for one in found["groups"]]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(9, 3.6 + 0.22 * lines), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    most = max((one["bytes"]["x"][-1] for one in found["curves"] if one["bytes"]["x"]), default=0.0)
    size, unit = scale_unit(most, "B")
    for i, (one, label) in enumerate(zip(found["curves"], labels, strict=True)):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        _line(left, one["rounds"], 1.0, label, style)
        _line(right, one["bytes"], size, label, style)
    left.set_xlabel("round")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel(f"sent, both directions ({unit})")
    left.set_ylabel(_text(found["metric"]))
    for axes in (left, right):
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.set_xlim(left=0)
        if found["target"] is not None:
            axes.axhline(found["target"], color="0.5", linewidth=0.8, linestyle=(0, (2, 2)))
    band = f", band: {100 * found['level']:g} % interval" if any(one["n"] > 1 for one in found["groups"]) else ""
    target = "" if found["target"] is None else f", grey: target {found['target']:g}"
    figure.suptitle(f"mean over seeds{band}{target}", fontsize=10)
    handles, _ = left.get_legend_handles_labels()
    figure.legend(handles, [_text(label) for label in labels], loc="outside lower left", fontsize=8, frameon=False)
    return figure


def _line(axes: Axes, band: Mapping[str, Any], size: float, label: str, style: Mapping[str, Any]) -> None:
    x = [value / size for value in band["x"]]
    marker = "o" if len(x) < 2 else None
    axes.plot(x, band["mean"], label=_text(label), linewidth=1.6, marker=marker, **style)
    if band["low"] is not None:
        axes.fill_between(x, band["low"], band["high"], color=style["color"], alpha=0.15, linewidth=0)


def draw_differences(found: Mapping[str, Any]) -> Figure:
    """Differences from the baseline with their intervals, and the single seeds."""
    rows = [(one["group"], name, one[name]) for one in found["paired"] for name in ("best", "last") if one[name]]
    names = [f"{_folded(label, 40)}\n{name} round, {pluralize(pairs['n'], 'pair')}" for label, name, pairs in rows]
    most = max(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(9, 1.3 + (0.12 + 0.13 * most) * len(rows)), layout="constrained")
    axes = figure.subplots()
    for at, (_, name, pairs) in enumerate(rows):
        colour = COLOURS[0] if name == "best" else COLOURS[1]
        values = [*pairs["values"].values()]
        axes.plot(values, [at] * len(values), "o", color=colour, alpha=0.4, markersize=6, markeredgewidth=0)
        axes.errorbar(pairs["mean"], at, xerr=pairs["half"], fmt="D", color=colour, capsize=4, markersize=5)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_text(name) for name in names], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    better = {"max": ", above 0 is better", "min": ", below 0 is better", None: ""}[found["mode"]]
    axes.set_xlabel(_text(_folded(f"{found['metric']} less that of {found['baseline']}{better}", 90)))
    figure.suptitle(f"paired by seed: mean, {100 * found['level']:g} % interval, and each seed", fontsize=10)
    return figure


def _folded(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False)


def _text(text: str) -> str:
    """Text that is drawn as it is, not as a formula."""
    return text.replace("$", r"\$")
