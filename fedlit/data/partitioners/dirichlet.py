"""Numbers behind the partitioners: classes, Dirichlet shares and sample counts."""

from __future__ import annotations

import numpy as np

from fedlit.core.errors import ConfigError, require_at_least, require_positive
from fedlit.data.population import Population
from fedlit.data.protocols import Samples


def check_dirichlet_args(num_clients: int, alpha: float, min_samples: int) -> tuple[ConfigError | None, ...]:
    """Check the arguments of a partition by Dirichlet shares.

    Returns:
        An error for each argument that is out of range, and None for each other argument.
    """
    return (
        require_at_least("num_clients", num_clients),
        require_positive("alpha", alpha, "0.1 is very uneven, 0.5 usual, 100 nearly IID"),
        require_at_least("min_samples", min_samples, 0),
    )


def labels_of(samples: Samples, name: str) -> np.ndarray:
    """Return the labels of the samples, shape (n,).

    Args:
        samples: the samples.
        name: name of the partition, for the error.

    Raises:
        ConfigError: if there is not one label for each sample.
    """
    labels = samples.labels()
    if labels is None or labels.ndim != 1:
        hint = "use partition=iid, quantity or natural"
        raise ConfigError("", name, "needs one label for each sample", hint)
    return labels


def classes_of(samples: Samples, name: str, bins: int | None = None) -> list[np.ndarray]:
    """Return the sample numbers of each class, in the order of classes.

    No class is empty.

    Args:
        samples: the samples.
        name: name of the partition, for the error.
        bins: number of quantile bins that serve as classes if labels are floating point; None refuses such labels. Equal
            labels are in one bin, so there may be fewer bins.

    Raises:
        ConfigError: if there is not one label for each sample, or labels are floating point and `bins` is None.
    """
    labels = labels_of(samples, name)
    if np.issubdtype(labels.dtype, np.floating):
        if bins is None:
            hint = "use partition=dirichlet, which bins them, or shards, iid, quantity or natural"
            raise ConfigError("", name, "needs labels that are classes, but the labels are floating point", hint)
        labels = np.searchsorted(np.sort(labels)[np.arange(1, bins) * len(labels) // bins], labels, side="right")
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    return np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)


def log_dirichlet(alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw the logarithms of Dirichlet(alpha) shares, up to a constant.

    They have the shape of alpha and are finite for any alpha > 0. A gamma variable of shape alpha is one of shape alpha + 1
    times U^(1 / alpha) (Marsaglia and Tsang 2000, section 6). For a small alpha nearly all gamma variables are 0 in float64,
    but their logarithms are finite. So a subset of the shares can be normalised however small its sum is.
    """
    gammas = np.log(generator.standard_gamma(alpha + 1))
    return gammas + np.log1p(-generator.random(alpha.shape)) / np.maximum(alpha, 1e-300)


def normalize(logs: np.ndarray) -> np.ndarray:
    """Return shares that sum to 1 and are proportional to exp(logs)."""
    shares = np.exp(np.maximum(logs - logs.max(), -800.0))
    return shares / shares.sum()


def dirichlet(alpha: float, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw symmetric Dirichlet(alpha) shares, shape (size,), for any alpha > 0."""
    return normalize(log_dirichlet(np.full(size, float(alpha)), generator))


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers in these shares that sum to `total`.

    Each number is within 1 of its share of the total. The running sum is rounded, not each share.
    """
    cuts = np.rint(np.cumsum(shares) * total).astype(np.int64)
    cuts[-1] = total
    return np.diff(np.minimum(cuts, total), prepend=0)


def allocate(alpha: np.ndarray, sizes: np.ndarray, stock: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw each client's number of samples of each class.

    Each client draws without replacement, by its own Dirichlet(alpha) shares of the classes that have samples left. Draws
    beyond a class's stock are repeated from the other classes: this is the same law as one draw after another, and each
    repetition exhausts a class or ends the client's draws.

    Args:
        alpha: concentrations, shape (classes,).
        sizes: draws of each client, shape (clients,); their sum is at most the sum of `stock`.
        stock: samples of each class, shape (classes,).
        generator: source of the draws.

    Returns:
        Counts, shape (clients, classes).
    """
    counts = np.zeros((len(sizes), len(stock)), dtype=np.int64)
    for size, taken in zip(sizes, counts, strict=True):
        logs = log_dirichlet(alpha, generator)
        while missing := size - taken.sum():
            left = np.flatnonzero(taken < stock)
            taken[left] += np.minimum(generator.multinomial(missing, normalize(logs[left])), (stock - taken)[left])
        stock = stock - taken
    return counts


def assign_classes(clients: int, classes: int, classes_per_client: int, generator: np.random.Generator) -> np.ndarray:
    """Draw the classes of each client.

    Each client has `classes_per_client` classes. Client i has class i mod classes, the others are random. Class j belongs to
    client j mod clients, so every class has an owner; this needs clients * classes_per_client >= classes.

    Returns:
        True where a client has a class, shape (clients, classes).
    """
    rank = generator.random((clients, classes))  # a client has the classes of its lowest ranks
    rank[np.arange(clients), np.arange(clients) % classes] = -1
    rank[np.arange(classes) % clients, np.arange(classes)] = -1
    is_owner = np.zeros(rank.shape, dtype=bool)
    np.put_along_axis(is_owner, np.argsort(rank, axis=1)[:, :classes_per_client], True, axis=1)
    return is_owner


def ensure_min_samples(
    owner: np.ndarray, num_clients: int, min_samples: int, generator: np.random.Generator
) -> Population:
    """Return the population in which every client has at least `min_samples`.

    Samples move to the clients with fewer, one at a time. Each is a random sample of the client that is then the largest; of
    equal clients the first. This lowers the largest clients to one level, so the level is computed first and all samples move
    at once.

    Raises:
        ConfigError: if there are fewer than `min_samples` samples for each client.
    """
    if num_clients * min_samples > len(owner):
        why = f"must be at most {len(owner) // num_clients}: there are {len(owner)} samples for {num_clients} clients"
        raise ConfigError("min_samples", min_samples, why, "use fewer clients")
    population = Population.of(owner, num_clients)
    lacking = np.maximum(min_samples - population.sizes, 0)
    moved_samples = int(lacking.sum())
    if moved_samples == 0:
        return population
    leaving = [
        generator.permutation(population.shard(client))[:count]
        for client, count in enumerate(_counts_above_level(population.sizes, moved_samples))
        if count
    ]
    owner = owner.copy()
    owner[generator.permutation(np.concatenate(leaving))] = np.repeat(np.arange(num_clients), lacking)
    levelled = Population.of(owner, num_clients)
    return Population(levelled.index, levelled.offsets, moved_samples=moved_samples)


def _counts_above_level(sizes: np.ndarray, count: int) -> np.ndarray:
    """Return the number of samples that each client gives, `count` for all.

    The largest client gives one sample at a time; of equal clients the first gives.
    """
    low, high = 0, int(sizes.max())
    while low < high:  # search for the highest level with at least `count` samples above it
        level = (low + high + 1) // 2
        low, high = (level, high) if np.maximum(sizes - level, 0).sum() >= count else (low, level - 1)
    counts = np.maximum(sizes - low, 0)
    givers = np.flatnonzero(counts)
    counts[givers[len(givers) - (counts.sum() - count) :]] -= 1  # the last of equal clients do not take the last step
    return counts
