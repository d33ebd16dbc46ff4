"""A figure of the partition.

The figure has a bar for each client and a colour for each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.run import Run
from fedlit.runs.layout import PARTITION_FIGURE

MAX_BARS = 100
MAX_CLASS_NAMES = 20
MAX_TICKS = 8


class PartitionFigure(Observer):
    """Writes partition.png."""

    def start(self, run: Run) -> None:
        """Draw and write the figure."""
        partition_figure(run.partition, run.data.classes).savefig(run.folder / PARTITION_FIGURE, dpi=120)


def partition_figure(statistics: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    """Return a bar for each client, stacked by class.

    The heights are label counts, or sizes if labels are not classes. Of more than 100 clients, 100 evenly spaced
    ones are drawn.

    Args:
        statistics: statistics of the partition: see `Population.statistics`.
        classes: names of the classes; empty if there are none.
    """
    has_labels = "label_counts" in statistics
    counts = np.asarray(statistics["label_counts"] if has_labels else statistics["sizes"])
    listed = np.asarray(statistics.get("listed", range(len(counts))))
    chosen = np.linspace(0, len(counts) - 1, min(len(counts), MAX_BARS)).astype(np.int64)
    counts, numbers = counts[chosen], listed[chosen]
    counts, classes = (counts, classes) if has_labels else (counts[:, None], ("samples",))
    is_subset = len(counts) != statistics["clients"]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    clients, bottom = np.arange(len(counts)), np.zeros(len(counts))
    for label, (name, colour) in enumerate(zip(classes, _colours(len(classes)), strict=True)):
        axes.bar(clients, counts[:, label], bottom=bottom, width=0.9, color=colour, label=name)
        bottom += counts[:, label]
    axes.set_title(_title(statistics, len(counts)), fontsize=10)
    axes.set_xlabel("client")
    axes.set_ylabel("samples")
    axes.margins(x=0.01)
    if len(counts) <= 20:
        axes.set_xticks(clients)
    elif is_subset:  # a bar's position is not its client's number
        ticks = clients[:: -(-len(clients) // MAX_TICKS)]
        axes.set_xticks(ticks, [f"{number:,}" for number in numbers[ticks]])
    if has_labels and len(classes) <= MAX_CLASS_NAMES:
        figure.legend(loc="outside right center", title="class", fontsize=8)
    return figure


def _colours(count: int) -> np.ndarray:
    """Return a colour for each of `count` classes, shape (count, 4)."""
    colormap = colormaps["tab10" if count <= 10 else "tab20" if count <= 20 else "turbo"]
    return colormap(np.arange(count) if count <= 20 else np.linspace(0, 1, count))


def _title(statistics: Mapping[str, Any], bars: int) -> str:
    subset = "" if bars == statistics["clients"] else f", {bars} shown"
    variation = statistics.get("mean_total_variation")
    figures = [f"mean total variation {variation:.2f}"] if "label_counts" in statistics else []
    figures.append(f"Gini of sizes {statistics['gini_of_sizes']:.2f}")
    return f"{statistics['samples']:,} samples, {statistics['clients']:,} clients{subset}: {', '.join(figures)}"
