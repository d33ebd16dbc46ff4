"""What partitioners divide by: classes, shares that sum to one, whole numbers of samples, and enough for everyone."""

from __future__ import annotations

import numpy as np

from fedlit.core.errors import ConfigError, require_at_least, require_positive
from fedlit.data.population import Population
from fedlit.data.protocols import Samples


def check_dirichlet_args(num_clients: int, alpha: float, min_samples: int) -> tuple[ConfigError | None, ...]:
    """Mistakes unless the arguments of a partition by Dirichlet shares are in their ranges."""
    return (
        require_at_least("num_clients", num_clients),
        require_positive("alpha", alpha, "0.1 is very uneven, 0.5 usual, 100 nearly IID"),
        require_at_least("min_samples", min_samples, 0),
    )


def labels_of(samples: Samples, name: str) -> np.ndarray:
    """The samples' labels, shape (n,).

    Raises:
        Mistake: if there is not one for each sample.
    """
    labels = samples.labels()
    if labels is None or labels.ndim != 1:
        raise ConfigError("", name, "needs a label for each sample", "take partition=iid, quantity or natural")
    return labels


def classes_of(samples: Samples, name: str, bins: int | None = None) -> list[np.ndarray]:
    """The samples of each class, in the order of the classes; there is no empty one.

    Args:
        samples: what is divided.
        name: the partition's, for the mistake.
        bins: number of quantile bins that are the classes of labels in floating point; None refuses such labels. Equal
            labels are in one bin, so there may be fewer.

    Raises:
        Mistake: if there is not a label for each sample, or labels are not classes and there are no bins.
    """
    labels = labels_of(samples, name)
    if np.issubdtype(labels.dtype, np.floating):
        if bins is None:
            remedy = "take partition=dirichlet, which bins them, shards, iid, quantity or natural"
            raise ConfigError("", name, "needs labels that are classes, and these are floating point", remedy)
        labels = np.searchsorted(np.sort(labels)[np.arange(1, bins) * len(labels) // bins], labels, side="right")
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    return np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)


def log_dirichlet(alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Logarithms of Dirichlet(alpha) shares up to a constant, finite for any alpha > 0; shape that of alpha.

    A gamma variable of shape alpha is one of shape alpha + 1 times U^(1 / alpha) (Marsaglia and Tsang 2000, section 6); its
    logarithm is finite where the variable itself is 0 in float64, as for nearly all of them when alpha is small. So the
    shares of some of them can be taken however small their sum is.
    """
    gammas = np.log(generator.standard_gamma(alpha + 1))
    return gammas + np.log1p(-generator.random(alpha.shape)) / np.maximum(alpha, 1e-300)


def normalize(logs: np.ndarray) -> np.ndarray:
    """Shares that sum to 1 and are proportional to exp(logs)."""
    shares = np.exp(np.maximum(logs - logs.max(), -800.0))
    return shares / shares.sum()


def dirichlet(alpha: float, size: int, generator: np.random.Generator) -> np.ndarray:
    """Shares of a symmetric Dirichlet(alpha), shape (size,), that sum to 1 for any alpha > 0."""
    return normalize(log_dirichlet(np.full(size, float(alpha)), generator))


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, each within 1 of its share of it: the running sum is rounded, not the shares."""
    cuts = np.rint(np.cumsum(shares) * total).astype(np.int64)
    cuts[-1] = total
    return np.diff(np.minimum(cuts, total), prepend=0)


def allocate(alpha: np.ndarray, sizes: np.ndarray, stock: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """How many samples of each class each client draws without replacement, shape (clients, classes): each draw is by the
    client's own Dirichlet(alpha) shares, of the classes that have samples left.

    What is drawn beyond a class's stock is drawn again from the others, which is the same law as one draw after another;
    each time a class runs out or all is drawn.

    Args:
        alpha: concentrations, shape (classes,).
        sizes: draws of each client, shape (clients,), at most the stock in all.
        stock: samples of each class, shape (classes,).
        generator: what draws.
    """
    counts = np.zeros((len(sizes), len(stock)), dtype=np.int64)
    for size, taken in zip(sizes, counts, strict=True):
        logs = log_dirichlet(alpha, generator)
        while missing := size - taken.sum():
            left = np.flatnonzero(taken < stock)
            taken[left] += np.minimum(generator.multinomial(missing, normalize(logs[left])), (stock - taken)[left])
        stock = stock - taken
    return counts


def assign_classes(clients: int, classes: int, each: int, generator: np.random.Generator) -> np.ndarray:
    """Which client has which class, shape (clients, classes): `each` classes a client, at random but that client i has class
    i mod classes, and class j client j mod clients. No more than `each` are given so if clients * each >= classes."""
    place = generator.random((clients, classes))  # a client has the classes with its lowest places
    place[np.arange(clients), np.arange(clients) % classes] = -1
    place[np.arange(classes) % clients, np.arange(classes)] = -1
    has = np.zeros(place.shape, dtype=bool)
    np.put_along_axis(has, np.argsort(place, axis=1)[:, :each], True, axis=1)
    return has


def ensure_min_samples(
    owner: np.ndarray, num_clients: int, min_samples: int, generator: np.random.Generator
) -> Population:
    """The population of these owners, after samples were moved to clients with fewer than `min_samples`.

    Samples leave one at a time, a random one of the client that is then the largest, the first of equals. That levels the
    largest from above, so the level is found first and the samples are moved in one go.

    Raises:
        Mistake: if there are not `min_samples` for each client.
    """
    if num_clients * min_samples > len(owner):
        most = f"must be at most {len(owner) // num_clients}: there are {len(owner)} samples for {num_clients} clients"
        raise ConfigError("min_samples", min_samples, most, "take fewer clients")
    population = Population.of(owner, num_clients)
    lacking = np.maximum(min_samples - population.sizes, 0)
    moved = int(lacking.sum())
    if moved == 0:
        return population
    leaving = [
        generator.permutation(population.shard(client))[:count]
        for client, count in enumerate(_levelled(population.sizes, moved))
        if count
    ]
    owner = owner.copy()
    owner[generator.permutation(np.concatenate(leaving))] = np.repeat(np.arange(num_clients), lacking)
    levelled = Population.of(owner, num_clients)
    return Population(levelled.index, levelled.offsets, moved_samples=moved)


def _levelled(sizes: np.ndarray, count: int) -> np.ndarray:
    """How many each client gives when `count` are taken one at a time from the largest, the first of equals."""
    low, high = 0, int(sizes.max())
    while low < high:  # the highest level above which there are `count`
        level = (low + high + 1) // 2
        low, high = (level, high) if np.maximum(sizes - level, 0).sum() >= count else (low, level - 1)
    given = np.maximum(sizes - low, 0)
    givers = np.flatnonzero(given)
    given[givers[len(givers) - (given.sum() - count) :]] -= 1  # the last of equals come too late for the last step
    return given
