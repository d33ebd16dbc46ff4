"""Consecutive segments of a vector, each with a scale of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from fedlit.core.tensors import Layout

BLOCK = 1 << 16
"""Numbers that a codec works on at a time: with its scratch arrays they stay in the processor's cache."""


def blocks(size: int) -> Iterator[slice]:
    """Yield parts of a vector of length `size`, in order."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


@dataclass(frozen=True)
class Segments:
    """Segments that are not empty.

    Args:
        ends: the index after each segment, int64 in ascending order, shape (s,).
    """

    ends: np.ndarray

    @classmethod
    def of_tensors(cls, layout: Layout) -> Segments:
        """A segment for each tensor of a layout that has numbers."""
        sizes = np.array([prod(shape) for _, _, shape in layout.entries], np.int64)
        return cls(np.cumsum(sizes[sizes > 0]))

    @classmethod
    def of_buckets(cls, size: int, length: int) -> Segments:
        """Segments of `length` numbers; the last one can be shorter."""
        return cls(np.minimum(np.arange(length, size + length, length), size) if size else np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """Numbers in each segment, shape (s,)."""
        return np.diff(self.ends, prepend=0)

    def maxima(self, values: np.ndarray) -> np.ndarray:
        """Largest absolute value in each segment, float32 of shape (s,)."""
        return self._reduce(values, np.maximum, lambda part: np.abs(part)).astype(np.float32)

    def absolute_sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of the absolute values of each segment, float64 of shape (s,)."""
        return self._reduce(values, np.add, lambda part: np.abs(part, dtype=np.float64))

    def norms(self, values: np.ndarray) -> np.ndarray:
        """Euclidean norm of each segment, float32 of shape (s,).

        The squares are added in float64.
        """
        return np.sqrt(self._reduce(values, np.add, lambda part: np.square(part, dtype=np.float64))).astype(np.float32)

    def spread(self, scales: np.ndarray, block: slice) -> np.ndarray | np.float32:
        """The scale of each number of a block.

        It is one number if all have the same scale.

        Args:
            scales: the scale of each segment, float32 of shape (s,).
            block: a part of the vector that is not empty.
        """
        inside, starts = self._inside(block)
        if len(starts) == 1:
            return scales[inside.start]
        return scales[inside].repeat(np.diff(starts, append=block.stop - block.start))

    def _reduce(self, values: np.ndarray, ufunc: np.ufunc, prepare) -> np.ndarray:
        result = np.zeros(len(self))
        for block in blocks(len(values)):
            inside, starts = self._inside(block)
            result[inside] = ufunc(result[inside], ufunc.reduceat(prepare(values[block]), starts))
        return result

    def _inside(self, block: slice) -> tuple[slice, np.ndarray]:
        """Segments in a block, and where they start.

        Returns:
            The segments that the block meets, and the position of their first numbers in the block.
        """
        first, last = np.searchsorted(self.ends, [block.start, block.stop - 1], side="right")
        return slice(first, last + 1), np.concatenate([[0], self.ends[first:last] - block.start])
