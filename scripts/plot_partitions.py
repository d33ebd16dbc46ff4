"""Nine partitions of the same samples side by side: who owns what, and how uneven it is.

    python scripts/plot_partitions.py                   on 10,000 samples of 10 classes of equal size
    python scripts/plot_partitions.py --data FOLDER     on the labels in FOLDER/labels.npy, integers from 0, and, where
                                                        FOLDER/owners.npy is there, its clients for the natural partition
    python scripts/plot_partitions.py --out FILE        default docs/partitions.png

Labels are all that a partition goes by, so no inputs are read. The natural partition's owners are drawn by default:
speakers with lognormal numbers of samples and some favourite classes each.
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
    """The nine with their titles; as many classes a client as it takes for each to have an owner, two at least."""
    each = max(2, -(-classes // CLIENTS))
    return [
        *((f"dirichlet, alpha {alpha:g}", Dirichlet(CLIENTS, alpha)) for alpha in (0.1, 0.5, 5.0)),
        ("shards, 2 a client", Shards(CLIENTS, 2)),
        (f"classes, {each} a client", Classes(CLIENTS, each)),
        ("quantity, alpha 0.5", Quantity(CLIENTS, 0.5)),
        ("noise, sigma 0.5", Noise(CLIENTS, 0.5)),
        ("iid", Iid(CLIENTS)),
        ("natural", Natural()),
    ]


def drawn():
    """Labels, as many of each class, and their speakers, who say some words more often than others."""
    generator = np.random.default_rng(SEED)
    labels = generator.permutation(np.arange(SAMPLES) % CLASSES)
    said = generator.dirichlet(np.full(CLASSES, 8.0), CLIENTS) * generator.lognormal(0.0, 0.8, (CLIENTS, 1))
    until = (said / said.sum(0)).cumsum(0)  # of each word, the part said by this speaker and those before
    return labels, (generator.random(SAMPLES) > until[:-1, labels]).sum(0)


def read(folder):
    """Labels, and owners or None."""
    owners = folder / "owners.npy"
    labels = np.load(folder / "labels.npy").astype(np.int64)
    return labels, np.load(owners).astype(np.int64) if owners.exists() else None


def panel(axes, title, population, labels, colours):
    """One partition; the first clients where there are many."""
    classes = len(colours)
    found = population.statistics(lambda index: labels[index], classes)
    counts = np.asarray(found["label_counts"])[: 2 * CLIENTS]
    clients, bottom = np.arange(len(counts)), np.zeros(len(counts))
    for label, colour in enumerate(colours):
        axes.bar(clients, counts[:, label], bottom=bottom, width=0.86, color=colour, linewidth=0)
        bottom += counts[:, label]
    axes.set_title(
        f"{title}\ntotal variation {found['mean_total_variation']:.2f}, Gini {found['gini_of_sizes']:.2f}", fontsize=10
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


def picture(labels, owner):
    """The nine of them."""
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
        panel(axes, title, partition(samples, stream(SEED, Purpose.PARTITION)), labels, colours)
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
    parser.add_argument("--out", type=Path, default=Path("docs/partitions.png"), help="picture to write")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder of labels.npy and owners.npy")
    arguments = parser.parse_args()
    labels, owner = drawn() if arguments.data is None else read(arguments.data)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    picture(labels, owner).savefig(arguments.out)


if __name__ == "__main__":
    main()
