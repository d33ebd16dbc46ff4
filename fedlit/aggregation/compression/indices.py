"""Packing of sets of positions in few bits.

A set of k of d positions is packed as Elias and Fano do it: the low bits of each position as they are, and the high bits as
gaps in unary. This takes less than log2(d / k) + 3 bits a position. A bitmap of d bits takes its place where it is shorter.
Elias, "Efficient Storage and Retrieval by Content and Address of Static Files", JACM 1974, https://doi.org/10.1145/321812.321820
"""

from __future__ import annotations

from functools import cache

import numpy as np

from fedlit.aggregation.compression.bits import pack_bits, packed_nbytes, unpack_bits


def indices_nbytes(count: int, size: int) -> int:
    """Length in bytes of a packed set of `count` positions below `size`."""
    return _format(count, size)[0]


def pack_indices(indices: np.ndarray, size: int) -> bytes:
    """Pack a set of positions.

    Args:
        indices: whole numbers in ascending order, each once, shape (k,).
        size: number of positions, above the largest index.
    """
    count = len(indices)
    nbytes, low = _format(count, size)
    if not nbytes:
        return b""
    if low is None:
        return np.packbits(_bitmap(indices, size), bitorder="little").tobytes()
    ends = (indices >> low) + np.arange(count)
    high = np.packbits(_bitmap(ends, count + (size - 1 >> low)), bitorder="little")
    return pack_bits((indices & (1 << low) - 1).astype(np.uint32), low) + high.tobytes()


def unpack_indices(content: memoryview, count: int, size: int) -> np.ndarray:
    """Return a packed set.

    Args:
        content: bytes that begin with the packed set.
        count: number of its positions.
        size: number of all positions.

    Returns:
        int64 in ascending order, shape (count,).
    """
    nbytes, low = _format(count, size)
    if not nbytes:
        return np.arange(count)
    if low is None:
        return np.flatnonzero(np.unpackbits(np.frombuffer(content[:nbytes], np.uint8), bitorder="little"))
    start = packed_nbytes(count, low)
    high = np.flatnonzero(np.unpackbits(np.frombuffer(content[start:nbytes], np.uint8), bitorder="little"))
    return (high - np.arange(count) << low) | unpack_bits(content, count, low)


def _bitmap(positions: np.ndarray, size: int) -> np.ndarray:
    bitmap = np.zeros(size, bool)
    bitmap[positions] = True
    return bitmap


@cache
def _format(count: int, size: int) -> tuple[int, int | None]:
    """Pair (bytes, low bits of a position) of the shortest format.

    The low bits are None for a bitmap.

    The empty set and the set of all positions need no bytes.
    """
    if count in (0, size):
        return 0, None
    formats: list[tuple[int, int | None]] = [(-(-size // 8), None)]
    for low in range((size - 1).bit_length() + 1):
        formats.append((packed_nbytes(count, low) + -(-(count + (size - 1 >> low)) // 8), low))
    return min(formats, key=lambda each: each[0])
