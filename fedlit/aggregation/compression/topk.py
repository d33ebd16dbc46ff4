"""Top-k sparsification: the largest numbers and their positions.

Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, https://arxiv.org/abs/1809.07599, Definition 2.1;
with error feedback it is their Algorithm 1 (Mem-SGD), applied to the updates of clients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.compression.indices import indices_nbytes, pack_indices, unpack_indices
from fedlit.core.errors import ConfigError, raise_errors, require
from fedlit.core.tensors import Layout


@dataclass(frozen=True)
class TopK(Codec):
    """Send the k numbers with the largest absolute values, as float32.

    The distance to the vector is at most (1 - k / d) ||v||^2, squared. Numbers of equal size are taken in their order.

    Args:
        fraction: k / d, in (0, 1]; k is rounded to a whole number of at least 1.
    """

    fraction: float = 0.01

    def __post_init__(self) -> None:
        raise_errors(fraction_error(self.fraction))

    def pack(self, vector: Tensor, ticket: Ticket) -> bytes:
        """Select the largest numbers."""
        values = vector.numpy()
        sizes = np.abs(values)
        sizes[np.isnan(sizes)] = np.inf  # NaN is sent, so that the server can refuse it
        kept = largest(sizes, count_of(self.fraction, len(values)))
        return values[kept].astype("<f4").tobytes() + pack_indices(kept, len(values))

    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return the numbers at their positions, and 0 elsewhere."""
        count = count_of(self.fraction, layout.size)
        kept = unpack_indices(content[4 * count :], count, layout.size)
        vector = np.zeros(layout.size, np.float32)
        vector[kept] = np.frombuffer(content, "<f4", count)
        return torch.from_numpy(vector)

    def nbytes(self, layout: Layout) -> int:
        """Length of the packed vector in bytes."""
        count = count_of(self.fraction, layout.size)
        return 4 * count + indices_nbytes(count, layout.size)


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the largest numbers.

    Args:
        values: numbers of shape (d,).
        count: k, 0 to d.

    Returns:
        int64 in ascending order, shape (k,). Of equal numbers the first ones are taken, so the result is unique.
    """
    if count in (0, len(values)):
        return np.arange(count)
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def count_of(fraction: float, size: int) -> int:
    """A fraction of `size` numbers, rounded, and at least 1."""
    return min(size, max(1, round(fraction * size)))


def fraction_error(fraction: float) -> ConfigError | None:
    """An error unless the fraction is in (0, 1]."""
    return require(0 < fraction <= 1, "fraction", fraction, "must be greater than 0 and at most 1")
