"""Vectors of integers modulo 2^32 or 2^64: their bytes, and their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.core.tensors import Layout


def to_tensor(integers: np.ndarray) -> Tensor:
    """The integers as a tensor of signed ones with the same bits."""
    return torch.from_numpy(integers.view(f"<i{integers.itemsize}"))


def to_array(integers: Tensor) -> np.ndarray:
    """The integers modulo the ring of a tensor, with the same bits."""
    array = integers.numpy()
    return array.view(f"<u{array.itemsize}")


@dataclass(frozen=True)
class RingCodec(Codec):
    """Four or eight bytes an integer, little-endian.

    Args:
        ring: 32 or 64.
    """

    ring: int
    lossless = True

    def pack(self, vector: Tensor, ticket: Ticket) -> memoryview:
        """The memory of a vector."""
        return vector.numpy().data.cast("B")

    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return the vector, which shares memory with the message."""
        return torch.frombuffer(content, dtype=self._dtype, count=layout.size)

    def nbytes(self, layout: Layout) -> int:
        """Length of the packed vector in bytes."""
        return self.ring // 8 * layout.size

    @property
    def _dtype(self) -> Any:
        return torch.int32 if self.ring == 32 else torch.int64


class RingSum(Aggregator):
    """The sum modulo the ring: exact, whatever the order.

    The weight is part of each vector.
    """

    def add(self, total: Tensor | None, vector: Tensor, weight: float) -> Tensor:
        """Add a vector, whose client has applied its weight."""
        return vector if total is None else self.merge(total, vector)

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The sum of both."""
        return to_tensor(to_array(left) + to_array(right))

    def finish(self, total: Tensor, weight: float) -> Tensor:
        """The opened sum divided by the weight."""
        return total / weight
