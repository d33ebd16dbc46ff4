"""Figure of the trade-off of two columns, with the Pareto front."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedlit.reports.measures.columns import KINDS
from fedlit.reports.render.cells import ReportValues, pluralize, scale_unit
from fedlit.reports.render.style import COLOURS, wrap
from fedlit.runs.metric_names import bounds

MARKERS = "oDs^v"
"""Markers of the groups; the next one is taken when all colours were used."""
MAX_POINTS = 20
"""Groups with a colour and a line in the legend; those on the front come first, the others are grey."""
LOG_SPAN = 20.0
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""
GREY = "0.7"


def trade_off_names(result: ReportValues) -> list[str]:
    """Return a file name without suffix for each trade-off, all different."""
    names: list[str] = []
    for one in result["trade_offs"]:
        columns = (re.sub(r"[^\w.]+", "-", one[axis]["name"], flags=re.ASCII) for axis in "xy")
        name = "-".join(["trade-off", *columns])
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names


@dataclass(frozen=True)
class _Axis:
    """One axis: its values are divided by `size` and stay within `bounds`."""

    size: float
    label: str
    is_log: bool
    limits: tuple[float, float]
    bounds: tuple[float, float]

    def ends(self, estimate: ReportValues) -> tuple[float, float, float]:
        """Return the mean and the ends of its interval, as drawn."""
        mean, half = estimate["mean"], estimate["half"] or 0.0
        low, high = max(mean - half, self.bounds[0]), min(mean + half, self.bounds[1])
        if self.is_log:
            low = max(low, self.limits[0] * self.size)
        return mean / self.size, low / self.size, high / self.size


def draw_trade_off(result: ReportValues, trade_off: ReportValues) -> Figure:
    """Draw the groups with their intervals, seeds, and the Pareto front.

    A group without a number on the horizontal axis is a horizontal line: one without privacy has no `privacy/epsilon`.

    Args:
        result: the report.
        trade_off: one of its trade-offs.
    """
    points, front = trade_off["points"], trade_off["front"] or []
    shown = [i for i, point in enumerate(points) if point["x"] and point["y"]]
    shown.sort(key=lambda i: (i not in front, points[i]["x"]["mean"]))
    lines = [i for i, point in enumerate(points) if point["y"] and not point["x"]]
    x = _make_axis(trade_off["x"], [points[i]["x"] for i in shown])
    y = _make_axis(trade_off["y"], [points[i]["y"] for i in [*shown, *lines]])
    coloured = [*shown, *lines][:MAX_POINTS]
    styles = _group_styles(result, trade_off, coloured)
    num_lines = sum(style["label"].count("\n") + 1 for style in styles.values())
    figure = Figure(figsize=(9, 4.4 + 0.22 * (num_lines + 1)), layout="constrained")
    axes = figure.subplots()
    _set_axes(axes, x, y)
    for i in sorted([*shown, *lines]):
        style = styles.get(i, {"color": GREY, "label": "_", "marker": MARKERS[0]})
        if i in lines:
            axes.axhline(y.ends(points[i]["y"])[0], linestyle="--", **style)
            continue
        is_filled = i in front or trade_off["front"] is None
        style = style | {"markerfacecolor": style["color"] if is_filled else "white"}
        _draw_point(axes, points[i], x, y, style, 4 if i in front else 3 if i in coloured else 2)
    _draw_front(axes, [(x.ends(points[i]["x"])[0], y.ends(points[i]["y"])[0]) for i in front], trade_off)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", fontsize=8, frameon=False)
    figure.suptitle(_title(result, trade_off, len(coloured)), fontsize=10)
    return figure


def _group_styles(result: ReportValues, trade_off: ReportValues, coloured: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return colour, marker and label of each group that has them.

    A group has the colour of its curve, unless there are too many groups.
    """
    styles = {}
    for rank, i in enumerate(sorted(coloured)):
        k = i if len(trade_off["points"]) <= MAX_POINTS else rank
        lacks = "" if trade_off["points"][i]["x"] else f", no {trade_off['x']['name']}"
        group = result["groups"][i]
        label = wrap(f"{group['group']} ({pluralize(group['n'], 'seed')}{lacks})", 110)
        styles[i] = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k // len(COLOURS)], "label": label}
    return styles


def _make_axis(column: ReportValues, estimates: Sequence[ReportValues]) -> _Axis:
    values = [value for one in estimates for value in one["values"].values()]
    size, unit = scale_unit(max(values, key=abs), column["unit"])
    low, high = min(values), max(values)
    is_log = low > 0 and high / low >= LOG_SPAN
    if is_log:
        margin = (high / low) ** 0.05
        limits = (low / margin / size, high * margin / size)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        limits = ((low - margin) / size, (high + margin) / size)
    parts = [KINDS[column["kind"]], *([unit] if unit else []), *(["logarithmic"] if is_log else [])]
    better = {"max": "larger is better", "min": "smaller is better", None: None}[column["mode"]]
    label = f"{column['name']}, {', '.join(parts)}" + (f" ({better})" if better else "")
    is_amount = column["kind"] in ("total", "ratio")
    return _Axis(
        size, wrap(label, 90), is_log, limits, (0.0, math.inf) if is_amount else bounds(column["name"], values)
    )


def _set_axes(axes: Axes, x: _Axis, y: _Axis) -> None:
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.set_xscale("log" if x.is_log else "linear")
    axes.set_yscale("log" if y.is_log else "linear")
    axes.set_xlim(*x.limits)
    axes.set_ylim(*y.limits)
    for part, axis in ((axes.xaxis, x), (axes.yaxis, y)):
        if axis.is_log:  # plain numbers: matplotlib's powers need the mathematical text that STYLE switches off
            is_wide = axis.limits[1] / axis.limits[0] > 1000
            part.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
            part.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            part.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, linewidth=0.6)


def _draw_point(axes: Axes, point: ReportValues, x: _Axis, y: _Axis, style: Mapping[str, Any], height: int) -> None:
    """Draw a group's means, their intervals, and each seed."""
    (mean_x, low_x, high_x), (mean_y, low_y, high_y) = x.ends(point["x"]), y.ends(point["y"])
    seeds = [seed for seed in point["x"]["values"] if seed in point["y"]["values"]]
    if len(seeds) > 1:
        pairs = [
            [part["values"][seed] / axis.size for seed in seeds] for part, axis in ((point["x"], x), (point["y"], y))
        ]
        axes.plot(*pairs, "o", color=style["color"], alpha=0.4, markersize=4, markeredgewidth=0, zorder=height - 0.5)
    x_ends, y_ends = [[mean_x - low_x], [high_x - mean_x]], [[mean_y - low_y], [high_y - mean_y]]
    axes.errorbar(
        [mean_x],
        [mean_y],
        xerr=x_ends,
        yerr=y_ends,
        linestyle="",
        capsize=0,
        elinewidth=1,
        markersize=7,
        zorder=height,
        **style,
    )


def _draw_front(axes: Axes, corners: Sequence[tuple[float, float]], trade_off: ReportValues) -> None:
    """Draw the border of what the groups on the front dominate."""
    if len(corners) < 2:
        return
    corners = sorted(corners)
    step = "steps-post" if trade_off["x"]["mode"] == "min" else "steps-pre"
    axes.plot(
        *zip(*corners, strict=True),
        color="0.4",
        linewidth=1,
        drawstyle=step,
        zorder=1.5,
        label="Pareto front of the means",
    )


def _title(result: ReportValues, trade_off: ReportValues, num_coloured: int) -> str:
    parts = [f"mean over seeds, {100 * result['level']:g} % interval, and each seed"]
    if trade_off["front"] is None:
        unknown = [trade_off[axis]["name"] for axis in "xy" if trade_off[axis]["mode"] is None]
        parts.append(f"no front: it is unknown which values of {unknown[0]} are better")
    else:
        parts.append("filled: on the Pareto front")
    missing = sum(not point["y"] for point in trade_off["points"])
    if missing:
        parts.append(f"without {pluralize(missing, 'group')} that lack {trade_off['y']['name']}")
    shown = len(trade_off["points"]) - missing
    if shown > num_coloured:
        parts.append(f"grey: {shown - num_coloured} more groups")
    return wrap("; ".join(parts), 110)
