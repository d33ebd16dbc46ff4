"""The clients and their shards, as two flat arrays whatever the number of clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError

MAX_LISTED = 1000
"""Clients whose sizes and labels are listed one by one in `partition.json`; of more, a sample of so many."""


@dataclass(frozen=True)
class Population:
    """Client k owns the samples `index[offsets[k]:offsets[k + 1]]`.

    Args:
        index: sample numbers, ordered by owner, shape (n,); a range where the samples themselves lie in that order.
        offsets: where each client begins, shape (clients + 1,).
        noise: standard deviation of the Gaussian noise on each client's prepared inputs while it trains, shape
            (clients,); None for none.
        moved: samples that were moved from one client to another so that each has enough.
    """

    index: np.ndarray | range
    offsets: np.ndarray
    noise: np.ndarray | None = None
    moved_samples: int = 0

    @classmethod
    def of(cls, owner: np.ndarray, clients: int) -> Population:
        """The population in which sample i belongs to client owner[i].

        Raises:
            ValueError: if an owner is not in range(clients).
        """
        if len(owner) and not (owner.min() >= 0 and owner.max() < clients):
            raise ValueError(
                f"a partition names clients {owner.min()} to {owner.max()}, but there are {clients}, numbered from 0"
            )
        sizes = np.bincount(owner, minlength=clients)
        return cls(np.argsort(owner, kind="stable"), np.concatenate([[0], np.cumsum(sizes)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Samples per client, shape (clients,)."""
        return np.diff(self.offsets)

    @property
    def samples(self) -> int:
        """Samples in all."""
        return int(self.offsets[-1])

    def size(self, client: int) -> int:
        """Samples of one client."""
        return int(self.offsets[client + 1] - self.offsets[client])

    def shard(self, client: int) -> np.ndarray:
        """The samples of one client."""
        return np.asarray(self.index[self.offsets[client] : self.offsets[client + 1]], dtype=np.int64)

    def split_shards(self, fraction: float, generator: np.random.Generator) -> tuple[Population, Population]:
        """Two populations of the same clients: of each client's samples a random part, rounded down, is in the second."""
        owner = np.repeat(np.arange(len(self)), self.sizes)
        order = np.lexsort((generator.random(self.samples), owner))  # at random within each client
        held = np.floor(fraction * self.sizes).astype(np.int64)
        second = np.arange(self.samples) - self.offsets[owner] < held[owner]
        index = np.asarray(self.index)[order]
        parts = []
        for chosen, sizes in ((~second, self.sizes - held), (second, held)):
            parts.append(replace(self, index=index[chosen], offsets=np.concatenate([[0], np.cumsum(sizes)])))
        return parts[0], parts[1]

    def merge_clients(self) -> Population:
        """One client that has all samples, in their order.

        Raises:
            Mistake: if the clients differ in more than whose the samples are.
        """
        if self.noise is not None:
            why = "adds noise to each client's inputs, and all samples in one place have one owner"
            raise ConfigError("", "noise", why, "take another partition")
        index = self.index if isinstance(self.index, range) else np.sort(self.index)
        return Population(index, np.asarray([0, self.samples]))

    def statistics(self, labels: Callable[[np.ndarray], np.ndarray | None], classes: int) -> dict[str, Any]:
        """What the partition looks like.

        Args:
            labels: those of some samples, integers in range(classes); None where there are none.
            classes: number of classes; 0 where there are none.

        Returns:
            `clients`, `samples`, `sizes`, `label_counts` (clients x classes), `mean_total_variation` (distance of a client's
            label distribution to that of all, averaged over clients with samples), `gini_of_sizes`, `empty_clients`,
            `moved_samples`, `quantiles_of_sizes`. With more than 1,000 clients sizes and labels are of 1,000 of them, evenly
            spaced, whose numbers are `listed`.
        """
        sizes = self.sizes
        shown = np.unique(np.linspace(0, len(self) - 1, min(len(self), MAX_LISTED)).astype(np.int64))
        marks = np.quantile(sizes, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        found: dict[str, Any] = {
            "clients": len(self),
            "samples": self.samples,
            "sizes": sizes[shown].tolist(),
            "empty_clients": int((sizes == 0).sum()),
            "gini_of_sizes": gini(sizes),
            "moved_samples": self.moved_samples,
            "quantiles_of_sizes": dict(
                zip(("0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"), marks.tolist(), strict=True)
            ),
        }
        if len(shown) < len(self):
            found["listed"] = shown.tolist()
        counts = self._counts(shown, labels, classes)
        if counts is not None:
            found |= {"label_counts": counts.tolist(), "mean_total_variation": _mean_total_variation(counts)}
        return found

    def _counts(
        self, shown: np.ndarray, labels: Callable[[np.ndarray], np.ndarray | None], classes: int
    ) -> np.ndarray | None:
        index = np.concatenate([self.shard(client) for client in shown])
        values = labels(index) if classes else None
        if values is None:
            return None
        row = np.repeat(np.arange(len(shown)), self.sizes[shown])
        counts = np.bincount(row * classes + values, minlength=len(shown) * classes)
        return counts.reshape(len(shown), classes)


def _mean_total_variation(counts: np.ndarray) -> float:
    some = counts[counts.sum(1) > 0]
    if not len(some):
        return 0.0
    return float((np.abs(some / some.sum(1, keepdims=True) - counts.sum(0) / counts.sum()).sum(1) / 2).mean())


def gini(values: np.ndarray) -> float:
    """Gini coefficient of values >= 0: 0 when all are equal, (n - 1) / n when one has everything, 0 when all are 0."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * total))
