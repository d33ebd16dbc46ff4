"""Consecutive segments of a vector, each with a scale of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from fedlit.core.tensors import Layout

BLOCK = 1 << 17
"""Numbers that a codec works on at a time: with its scratch arrays they stay in the processor's cache."""

SHORT = 4096
"""Mean length of a block's segments below which a NumPy call for each would take longer than the numbers."""


def blocks(size: int) -> Iterator[slice]:
    """Yield parts of a vector of length `size`, in order."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


class _Memory(threading.local):
    """Arrays of one thread."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, np.dtype], np.ndarray] = {}


_MEMORY = _Memory()


def scratch(name: str, dtype: type, size: int) -> np.ndarray:
    """Memory for intermediate numbers of a block, uninitialised.

    A thread gets the same memory for the same name again. New memory for each message would cost more time than the numbers.

    Args:
        name: what the memory holds.
        dtype: type of the numbers.
        size: count of the numbers, at most BLOCK.
    """
    key = name, np.dtype(dtype)
    if key not in _MEMORY.arrays:
        _MEMORY.arrays[key] = np.empty(BLOCK, dtype)
    return _MEMORY.arrays[key][:size]


@dataclass(frozen=True)
class Segments:
    """Segments that are not empty.

    Args:
        ends: the index after each segment, int64 in ascending order, shape (s,).
        width: numbers in each segment, of which the last one can have fewer; 0 if the lengths differ.
    """

    ends: np.ndarray
    width: int = 0

    @classmethod
    def of_tensors(cls, layout: Layout) -> Segments:
        """A segment for each tensor of a layout that has numbers."""
        sizes = np.array([prod(shape) for _, _, shape in layout.entries], np.int64)
        return cls(np.cumsum(sizes[sizes > 0]))

    @classmethod
    def of_buckets(cls, size: int, length: int) -> Segments:
        """Segments of `length` numbers; the last one can be shorter."""
        ends = np.minimum(np.arange(length, size + length, length), size) if size else np.zeros(0, np.int64)
        return cls(ends, length)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """Numbers in each segment, shape (s,)."""
        return np.diff(self.ends, prepend=0)

    def maxima(self, values: np.ndarray) -> np.ndarray:
        """Largest absolute value in each segment, float32 of shape (s,)."""
        return self._reduce(values, np.maximum, np.abs, np.float32).astype(np.float32)

    def absolute_sums(self, values: np.ndarray) -> np.ndarray:
        """Sum of the absolute values of each segment, float64 of shape (s,)."""
        return self._reduce(values, np.add, np.abs, np.float64)

    def norms(self, values: np.ndarray) -> np.ndarray:
        """Euclidean norm of each segment, float32 of shape (s,).

        The squares are added in float64.
        """
        squares = self._reduce(values, np.add, np.square, np.float64)
        return np.sqrt(squares).astype(np.float32)

    def divide(self, values: np.ndarray, scales: np.ndarray, block: slice, out: np.ndarray) -> None:
        """Divide each number of a block by the scale of its segment.

        Args:
            values: the numbers of the block, float32.
            scales: the scale of each segment, float32 of shape (s,).
            block: a part of the vector that is not empty.
            out: the result, float32; it can be `values`.
        """
        self._apply(np.divide, torch.div, values, scales, block, out)

    def multiply(self, values: np.ndarray, scales: np.ndarray, block: slice, out: np.ndarray) -> None:
        """Multiply each number of a block by the scale of its segment.

        The arguments are those of `divide`.
        """
        self._apply(np.multiply, torch.mul, values, scales, block, out)

    def _apply(self, ufunc: np.ufunc, function: Callable, values, scales, block: slice, out: np.ndarray) -> None:
        """Write the result for each number of a block.

        Args:
            ufunc: acts on vectors.
            function: acts on matrices; there torch is faster than NumPy.
            values: see `divide`, as for the rest.
        """
        inside, starts = self._inside(block)
        size, own = len(values), scales[inside]
        if self.width and not BLOCK % self.width:  # the block is a matrix with a segment in each row
            stop = size - size % self.width  # then follows the short last segment
            rows, into = (torch.from_numpy(part[:stop]).view(-1, self.width) for part in (values, out))
            function(rows, torch.from_numpy(own[: len(rows), None]), out=into)
            if stop < size:
                ufunc(values[stop:], own[-1], out=out[stop:])
        elif len(own) * SHORT > size:
            ufunc(values, self.spread(scales, block), out=out)
        else:
            for start, stop, scale in zip(starts, [*starts[1:], size], own, strict=True):
                ufunc(values[start:stop], scale, out=out[start:stop])

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

    def _reduce(self, values: np.ndarray, ufunc: np.ufunc, prepare: np.ufunc, dtype: type) -> np.ndarray:
        """Reduce prepare(number) over each segment, float64 of shape (s,).

        Args:
            values: numbers of the vector.
            ufunc: combines two numbers.
            prepare: acts on each number.
            dtype: type of the prepared numbers.
        """
        result = np.zeros(len(self))
        for block in blocks(len(values)):
            inside, starts = self._inside(block)
            part, prepared = values[block], scratch("prepared", dtype, block.stop - block.start)
            if prepared.dtype != part.dtype:  # NumPy converts faster before its operation than in it
                prepared[:] = part
                part = prepared
            prepare(part, out=prepared)
            result[inside] = ufunc(result[inside], ufunc.reduceat(prepared, starts))
        return result

    def _inside(self, block: slice) -> tuple[slice, np.ndarray]:
        """Segments in a block, and where they start.

        Returns:
            The segments that the block meets, and the position of their first numbers in the block.
        """
        first, last = np.searchsorted(self.ends, [block.start, block.stop - 1], side="right")
        return slice(first, last + 1), np.concatenate([[0], self.ends[first:last] - block.start])
