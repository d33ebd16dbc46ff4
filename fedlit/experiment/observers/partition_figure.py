"""A figure of the partition.

The figure has a bar for each client and a colour for each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.run import Run
from fedlit.runs.layout import PARTITION_FIGURE

MAX_BARS = 100
MAX_CLASSES = 20
MAX_TICKS = 8


class PartitionFigure(Observer):
    """Writes partition.png."""

    def start(self, run: Run) -> None:
        """Draw and write the figure."""
        partition_figure(run.partition, run.data.classes).savefig(run.folder / PARTITION_FIGURE, dpi=120)


def partition_figure(statistics: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    """Return a bar for each client, stacked by class.

    The heights are label counts, or sizes if labels are not classes. Of more than 100 clients, 100 evenly spaced
    ones are drawn. Of more than 20 classes, the 20 with most samples have a colour each, and the others one together.

    Args:
        statistics: statistics of the partition: see `Population.statistics`.
        classes: names of the classes; empty if there are none.
    """
    has_labels = "label_counts" in statistics
    counts = np.asarray(statistics["label_counts"] if has_labels else statistics["sizes"])
    listed = np.asarray(statistics.get("listed", range(len(counts))))
    chosen = np.linspace(0, len(counts) - 1, min(len(counts), MAX_BARS)).astype(np.int64)
    counts, numbers = counts[chosen], listed[chosen]
    counts, classes = _largest_classes(counts, classes) if has_labels else (counts[:, None], ("samples",))
    names = [name if len(name) <= 24 else f"{name[:21]}..." for name in classes]
    is_subset = len(counts) != statistics["clients"]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    clients, bottom = np.arange(len(counts)), np.zeros(len(counts))
    for label, (name, colour) in enumerate(zip(names, _colours(len(names)), strict=True)):
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
    if has_labels:
        for text in figure.legend(loc="outside right center", title="class", fontsize=8).get_texts():
            text.set_parse_math(False)  # a class may have dollar signs
    return figure


def _largest_classes(counts: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """Keep the largest classes, and add up the others.

    Args:
        counts: label counts, shape (clients, classes).
        classes: names of the classes.

    Returns:
        Label counts of at most 20 classes in their order, and of all others together; the names of both.
    """
    if len(classes) <= MAX_CLASSES:
        return counts, classes
    largest = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[:MAX_CLASSES])
    rest = counts.sum(axis=1) - counts[:, largest].sum(axis=1)
    names = [*(classes[label] for label in largest), f"{len(classes) - MAX_CLASSES:,} others"]
    return np.column_stack([counts[:, largest], rest]), names


def _colours(count: int) -> np.ndarray:
    """Return a colour for each of `count` classes, shape (count, 4).

    The class after the twentieth is grey.
    """
    colormap = colormaps["tab10" if count <= 10 else "tab20"]
    return np.vstack(
        [colormap(np.arange(min(count, MAX_CLASSES))), *([to_rgba("0.92")] if count > MAX_CLASSES else [])]
    )


def _title(statistics: Mapping[str, Any], bars: int) -> str:
    subset = "" if bars == statistics["clients"] else f", {bars} shown"
    variation = statistics.get("mean_total_variation")
    figures = [f"mean total variation {variation:.2f}"] if "label_counts" in statistics else []
    figures.append(f"Gini of sizes {statistics['gini_of_sizes']:.2f}")
    return f"{statistics['samples']:,} samples, {statistics['clients']:,} clients{subset}: {', '.join(figures)}"
