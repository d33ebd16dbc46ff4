"""Plot nine partitions of the same samples side by side.

    python scripts/plot_partitions.py                   on 10,000 samples in 10 classes of equal size
    python scripts/plot_partitions.py --data FOLDER     on the labels in FOLDER/labels.npy, integers from 0; the optional
                                                        FOLDER/owners.npy names the clients of the natural partition
    python scripts/plot_partitions.py --out FILE        default docs/partitions.png

Partitions need only labels, so the script reads no inputs. By default the owners of the natural partition are random:
speakers with lognormal numbers of samples, each with some favourite classes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from fedlit.core.streams import Purpose, stream
from fedlit.data import Classes, Dirichlet, Iid, Natural, Noise, Quantity, Shards, TensorSamples

CLIENTS, CLASSES, SAMPLES, SEED = 10, 10, 10_000, 0


def partitions(classes):
    """Return the nine partitions with their titles.

    The number of classes for each client is the smallest, from 2, that gives every class an owner.
    """
    classes_per_client = max(2, -(-classes // CLIENTS))
    return [
        *((f"dirichlet, alpha {alpha:g}", Dirichlet(CLIENTS, alpha)) for alpha in (0.1, 0.5, 5.0)),
        ("shards, 2 a client", Shards(CLIENTS, 2)),
        (f"classes, {classes_per_client} a client", Classes(CLIENTS, classes_per_client)),
        ("quantity, alpha 0.5", Quantity(CLIENTS, 0.5)),
        ("noise, sigma 0.5", Noise(CLIENTS, 0.5)),
        ("iid", Iid(CLIENTS)),
        ("natural", Natural()),
    ]


def draw_samples():
    """Draw samples of speakers who prefer some classes.

    Returns:
        Labels, equally many of each class, and owners, both of shape (SAMPLES,).
    """
    generator = np.random.default_rng(SEED)
    labels = generator.permutation(np.arange(SAMPLES) % CLASSES)
    rates = generator.dirichlet(np.full(CLASSES, 8.0), CLIENTS) * generator.lognormal(0.0, 0.8, (CLIENTS, 1))
    cumulative = (rates / rates.sum(0)).cumsum(0)  # for each class, the share of this speaker and those before
    return labels, (generator.random(SAMPLES) > cumulative[:-1, labels]).sum(0)


def read(folder):
    """Return labels, and owners or None."""
    owners = folder / "owners.npy"
    labels = np.load(folder / "labels.npy").astype(np.int64)
    return labels, np.load(owners).astype(np.int64) if owners.exists() else None


def draw_panel(axes, title, population, labels, colours):
    """Draw one partition; of many clients, the first."""
    classes = len(colours)
    statistics = population.statistics(lambda index: labels[index], classes)
    counts = np.asarray(statistics["label_counts"])[: 2 * CLIENTS]
    clients, bottom = np.arange(len(counts)), np.zeros(len(counts))
    for label, colour in enumerate(colours):
        axes.bar(clients, counts[:, label], bottom=bottom, width=0.86, color=colour, linewidth=0)
        bottom += counts[:, label]
    axes.set_title(
        f"{title}\ntotal variation {statistics['mean_total_variation']:.2f}, Gini {statistics['gini_of_sizes']:.2f}",
        fontsize=10,
    )
    axes.set_xticks(clients[:: 1 if len(counts) <= CLIENTS else 5])
    axes.tick_params(labelsize=8)
    axes.margins(x=0.01)
    axes.set_ylim(0, bottom.max() * (1.05 if population.noise is None else 1.15))
    axes.spines[["top", "right"]].set_visible(False)
    for client, std in enumerate([] if population.noise is None else population.noise[: len(counts)]):
        axes.annotate(
            f"{std:.2f}", (client, bottom[client]), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7
        )


def make_figure(labels, owner):
    """Return the figure of the nine partitions."""
    classes = int(labels.max()) + 1
    colours = colormaps["tab10"].colors[:classes] if classes <= 10 else colormaps["turbo"](np.linspace(0, 1, classes))
    clients = 0 if owner is None else int(owner.max()) + 1
    samples = TensorSamples(torch.zeros(len(labels)), torch.from_numpy(labels), owner=owner, clients=clients)
    figure = Figure(figsize=(10, 8.2), dpi=120, layout="constrained")
    grid = figure.subplots(3, 3)
    for axes, (title, partition) in zip(grid.flat, partitions(classes), strict=True):
        if owner is None and isinstance(partition, Natural):
            axes.set_title(f"{title}: the data names no clients", fontsize=10)
            axes.set_axis_off()
            continue
        draw_panel(axes, title, partition(samples, stream(SEED, Purpose.PARTITION)), labels, colours)
    for axes in grid[:, 0]:
        axes.set_ylabel("samples", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("client", fontsize=9)
    if classes <= 20:
        handles = [grid.flat[0].bar(0, 0, color=colour, linewidth=0) for colour in colours]
        figure.legend(
            handles, range(classes), loc="outside lower center", ncols=classes, title="class", fontsize=9, frameon=False
        )
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/partitions.png"), help="image file to write")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder with labels.npy and, optionally, owners.npy"
    )
    arguments = parser.parse_args()
    labels, owner = draw_samples() if arguments.data is None else read(arguments.data)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    make_figure(labels, owner).savefig(arguments.out)


if __name__ == "__main__":
    main()
