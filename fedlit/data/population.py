"""The clients and their shards, in two flat arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError

MAX_LISTED_CLIENTS = 1000
"""Largest number of clients whose sizes and labels `partition.json` lists; of more clients it lists a sample."""

MAX_LISTED_COUNTS = 1_000_000
"""Largest number of label counts in `partition.json`: with many classes it lists fewer clients, but at least 20."""


@dataclass(frozen=True)
class Population:
    """Clients and their samples: client k owns `index[offsets[k]:offsets[k + 1]]`.

    Args:
        index: sample numbers, ordered by owner, shape (n,); a range if the samples themselves are in that order.
        offsets: position in `index` of each client's first sample, and the number of samples, shape (clients + 1,).
        noise: standard deviation of the Gaussian noise on each client's prepared inputs in training, shape (clients,); None
            for no noise.
        moved_samples: number of samples that moved between clients so that each client has enough.
    """

    index: np.ndarray | range
    offsets: np.ndarray
    noise: np.ndarray | None = None
    moved_samples: int = 0

    @classmethod
    def of(cls, owner: np.ndarray, clients: int) -> Population:
        """Return the population in which sample i belongs to client owner[i].

        Raises:
            ValueError: if an owner is not in range(clients).
        """
        if len(owner) and not (owner.min() >= 0 and owner.max() < clients):
            raise ValueError(
                f"the partition names clients {owner.min()} to {owner.max()}, but must name clients 0 to {clients - 1}"
            )
        sizes = np.bincount(owner, minlength=clients)
        return cls(np.argsort(owner, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Number of samples of each client, shape (clients,)."""
        return np.diff(self.offsets)

    @property
    def samples(self) -> int:
        """Number of samples of all clients."""
        return int(self.offsets[-1])

    def size(self, client: int) -> int:
        """Return the number of samples of one client."""
        return int(self.offsets[client + 1] - self.offsets[client])

    def shard(self, client: int) -> np.ndarray:
        """Return the sample numbers of one client, shape (size,)."""
        return np.asarray(self.index[self.offsets[client] : self.offsets[client + 1]], dtype=np.int64)

    def split_shards(self, fraction: float, generator: np.random.Generator) -> tuple[Population, Population]:
        """Split each client's samples at random.

        Args:
            fraction: part of each shard that is held out, in [0, 1); the number of samples is rounded down.
            generator: source of the draws.

        Returns:
            The population of the samples that remain, and that of the samples held out; both have the same clients.
        """
        owner = np.repeat(np.arange(len(self)), self.sizes)
        order = np.lexsort((generator.random(self.samples), owner))  # random order within each client
        held_out = np.floor(fraction * self.sizes).astype(np.int64)
        is_held_out = np.arange(self.samples) - self.offsets[owner] < held_out[owner]
        index = np.asarray(self.index)[order]
        parts = []
        for mask, sizes in ((~is_held_out, self.sizes - held_out), (is_held_out, held_out)):
            parts.append(replace(self, index=index[mask], offsets=np.concatenate([[0], np.cumsum(sizes)])))
        return parts[0], parts[1]

    def merge_clients(self) -> Population:
        """Return the population of one client that has all samples.

        Raises:
            ConfigError: if clients have noise, which one client cannot reproduce.
        """
        if self.noise is not None:
            why = "adds its own noise to each client's inputs, but the algorithm trains all samples in one place"
            raise ConfigError("", "noise", why, "use another partition")
        index = self.index if isinstance(self.index, range) else np.sort(self.index)
        return Population(index, np.asarray([0, self.samples]))

    def statistics(self, labels: Callable[[np.ndarray], np.ndarray | None], classes: int) -> dict[str, Any]:
        """Return the statistics of the partition.

        Args:
            labels: function from sample numbers to their labels, integers in range(classes), or to None without labels.
            classes: number of classes; 0 without classes.

        Returns:
            `clients`, `samples`, `sizes`, `label_counts` (clients x classes), `mean_total_variation` (distance of a client's
            label distribution to that of all, averaged over clients with samples), `gini_of_sizes`, `empty_clients`,
            `moved_samples`, `quantiles_of_sizes`. With more than 1,000 clients, or very many classes, `sizes` and
            `label_counts` are those of evenly spaced clients; `listed` has their numbers.
        """
        sizes = self.sizes
        most = min(len(self), MAX_LISTED_CLIENTS, max(20, MAX_LISTED_COUNTS // max(1, classes)))
        listed = np.unique(np.linspace(0, len(self) - 1, most).astype(np.int64))
        quantiles = np.quantile(sizes, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        statistics: dict[str, Any] = {
            "clients": len(self),
            "samples": self.samples,
            "sizes": sizes[listed].tolist(),
            "empty_clients": int((sizes == 0).sum()),
            "gini_of_sizes": gini(sizes),
            "moved_samples": self.moved_samples,
            "quantiles_of_sizes": dict(
                zip(("0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"), quantiles.tolist(), strict=True)
            ),
        }
        if len(listed) < len(self):
            statistics["listed"] = listed.tolist()
        counts = self._label_counts(listed, labels, classes)
        if counts is not None:
            statistics |= {"label_counts": counts.tolist(), "mean_total_variation": _mean_total_variation(counts)}
        return statistics

    def _label_counts(
        self, clients: np.ndarray, labels: Callable[[np.ndarray], np.ndarray | None], classes: int
    ) -> np.ndarray | None:
        """Return label counts, shape (clients, classes); None without classes."""
        index = np.concatenate([self.shard(client) for client in clients])
        values = labels(index) if classes else None
        if values is None:
            return None
        row = np.repeat(np.arange(len(clients)), self.sizes[clients])
        counts = np.bincount(row * classes + values, minlength=len(clients) * classes)
        return counts.reshape(len(clients), classes)


def _mean_total_variation(counts: np.ndarray) -> float:
    nonempty = counts[counts.sum(1) > 0]
    if not len(nonempty):
        return 0.0
    distances = np.abs(nonempty / nonempty.sum(1, keepdims=True) - counts.sum(0) / counts.sum()).sum(1) / 2
    return float(distances.mean())


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of values >= 0.

    It is in [0, (n - 1) / n]: 0 if all values are equal (also if all are 0), and (n - 1) / n if only one is above 0.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * total))
