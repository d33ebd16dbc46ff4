"""The numbers of an update in float64, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1 << 18
"""Numbers in a block of a long vector: 2 MiB in float64, which stay in a processor's cache."""

LONG = 1 << 19
"""Number of numbers above which a vector is read in blocks.

Below, one conversion costs less than the operations of several blocks. Above, new memory costs most, if the C library asks the
operating system for it: from 32 MiB on it always does.
"""


class Float64Blocks:
    """The float64 numbers of a vector, for its norm and sum.

    A vector of up to LONG numbers is one block, which is converted once. A longer one is converted block by block, each time
    that it is read.

    Args:
        vector: float32 of shape (d,), which is not changed, or float64, which is used as it is.
    """

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self._whole = vector if vector.dtype == torch.float64 else None

    @property
    def is_single(self) -> bool:
        """True if there is one block."""
        return self._whole is not None or len(self.vector) <= LONG

    def whole(self) -> Tensor:
        """Return all numbers, which the sum may overwrite."""
        if self._whole is None:
            self._whole = self.vector.double()
        return self._whole

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the place of each block, and its numbers.

        The sum may overwrite them. They are valid until the next block.
        """
        size = len(self.vector)
        if self.is_single:
            yield slice(0, size), self.whole()
            return
        memory = torch.empty(BLOCK, dtype=torch.float64)
        for start in range(0, size, BLOCK):
            place = slice(start, min(start + BLOCK, size))
            yield place, memory[: place.stop - start].copy_(self.vector[place])

    def square(self, part: slice) -> float:
        """Return the squared norm of a part of the vector."""
        if self.is_single:
            own = self.whole()[part]
            return float(own.dot(own))
        total = 0.0
        for place, block in self:
            own = block[max(part.start - place.start, 0) : max(part.stop - place.start, 0)]
            total += float(own.dot(own))
        return total
