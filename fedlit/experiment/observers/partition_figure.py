"""A picture of who owns what: a bar for each client, a colour for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from fedlit.experiment.run import Run
from fedlit.runs.record import RoundRecord

MOST_BARS = 100
MOST_NAMES = 20
MOST_TICKS = 8


class PartitionFigure:
    """Writes partition.png."""

    def start(self, run: Run) -> None:
        partition_figure(run.partition, run.data.classes).savefig(run.folder / "partition.png", dpi=120)

    def round(self, record: RoundRecord) -> None: ...

    def end(self, summary: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def partition_figure(statistics: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    """Stacked bars of label counts, or of sizes where labels are no classes; of 100 clients, evenly spaced, where there are
    more."""
    labelled = "label_counts" in statistics
    counts = np.asarray(statistics["label_counts"] if labelled else statistics["sizes"])
    listed = np.asarray(statistics.get("listed", range(len(counts))))
    shown = np.linspace(0, len(counts) - 1, min(len(counts), MOST_BARS)).astype(np.int64)
    counts, numbers = counts[shown], listed[shown]
    counts, classes = (counts, classes) if labelled else (counts[:, None], ("samples",))
    clients = np.arange(len(counts))
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["tab10" if len(classes) <= 10 else "tab20" if len(classes) <= 20 else "turbo"](
        np.arange(len(classes)) if len(classes) <= 20 else np.linspace(0, 1, len(classes))
    )
    bottom = np.zeros(len(counts))
    for label, name in enumerate(classes):
        axes.bar(clients, counts[:, label], bottom=bottom, width=0.9, color=colours[label], label=name)
        bottom += counts[:, label]
    some = "" if len(counts) == statistics["clients"] else f", {len(counts)} of them shown"
    figures = [f"mean total variation {statistics['mean_total_variation']:.2f}"] if labelled else []
    figures.append(f"Gini of sizes {statistics['gini_of_sizes']:.2f}")
    title = f"{statistics['samples']:,} samples, {statistics['clients']:,} clients{some}: {', '.join(figures)}"
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("client")
    axes.set_ylabel("samples")
    axes.margins(x=0.01)
    if len(counts) <= 20:
        axes.set_xticks(clients)
    elif some:  # bars of some clients: their own numbers, at as many as can be read
        ticks = clients[:: -(-len(clients) // MOST_TICKS)]
        axes.set_xticks(ticks, [f"{number:,}" for number in numbers[ticks]])
    if labelled and len(classes) <= MOST_NAMES:
        figure.legend(loc="outside right center", title="class", fontsize=8)
    return figure
