"""Batches of Poisson sampling: each example is drawn on its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from fedlit.core.torch_internals import map_leaves
from fedlit.data.protocols import Batches


class PoissonBatches:
    """Batches of Poisson sampling, the empty ones included.

    Each example of the shard is in each batch with the same probability, independently of the other examples and batches. An
    empty batch has the structure of the others and tensors of length 0.

    Args:
        read: returns the batches of some samples, all of them in one batch.
        shard: sample numbers of the client, shape (n,), n > 0.
        rate: probability that an example is in a batch, in (0, 1].
        count: batches in a pass.
        generator: source of the draws; each pass continues it.
        sizes: gets the number of examples of each batch that is read; whoever uses the batch removes it.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], Batches],
        shard: np.ndarray,
        rate: float,
        count: int,
        generator: np.random.Generator,
        sizes: deque[int],
    ) -> None:
        self._read, self._shard, self._rate, self._count, self._generator = read, shard, rate, count, generator
        self._sizes = sizes

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        self._sizes.clear()  # a Trainer may read a batch ahead and end the pass before it
        for _ in range(self._count):
            rows = self._shard[self._generator.random(len(self._shard)) < self._rate]
            self._sizes.append(len(rows))
            yield self._one_batch(rows) if len(rows) else map_leaves(_first_none, self._one_batch(self._shard[:1]))

    def _one_batch(self, rows: np.ndarray) -> Any:
        (batch,) = self._read(rows)
        return batch


def _first_none(leaf: Any) -> Any:
    """Return a tensor of a batch without its examples."""
    return leaf[:0] if isinstance(leaf, Tensor) and leaf.ndim else leaf
