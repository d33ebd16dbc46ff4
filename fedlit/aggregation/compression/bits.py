"""Bit packing of whole numbers of a few bits each.

A width is a sum of powers of two, such as 5 = 1 + 4. The lowest bits of all numbers come first, as fields of the smallest
power. So no field crosses a byte or a word, and each step is one operation on an array.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FIELDS = (1, 2, 4, 8, 16, 32)
WORDS = {2: np.dtype("<u4"), 4: np.dtype("<u2")}
"""Word that holds the bytes of the numbers that share one byte, by the width of their field."""


def packed_nbytes(count: int, width: int) -> int:
    """Length in bytes of packed numbers of `width` bits, 0 to 32."""
    return sum(_field_nbytes(count, field) for field, _ in _fields(width))


def pack_bits(numbers: np.ndarray, width: int) -> bytes:
    """Pack whole numbers.

    Args:
        numbers: unsigned integers of shape (n,), each below 2**width.
        width: bits of each number, 0 to 32.
    """
    return b"".join(
        _pack_field(numbers >> shift if shift else numbers, field, shift + field < width).data
        for field, shift in _fields(width)
    )


def unpack_bits(content: memoryview, count: int, width: int) -> np.ndarray:
    """Return packed numbers.

    Args:
        content: bytes that begin with the packed numbers.
        count: how many numbers there are.
        width: bits of each number, 0 to 32.

    Returns:
        Unsigned integers of shape (count,), of the smallest type that holds `width` bits.
    """
    dtype = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
    numbers, start = np.zeros(0 if width else count, dtype), 0
    for field, shift in _fields(width):
        stop = start + _field_nbytes(count, field)
        part = _unpack_field(content[start:stop], count, field).astype(dtype, copy=False)
        numbers, start = numbers | part << shift if shift else part, stop
    return numbers


def _fields(width: int) -> Iterator[tuple[int, int]]:
    """Pairs (bits of a field, position of its lowest bit)."""
    shift = 0
    for field in FIELDS:
        if width & field:
            yield field, shift
            shift += field


def _field_nbytes(count: int, field: int) -> int:
    return -(-count * field // 8)


def _pack_field(numbers: np.ndarray, field: int, has_more: bool) -> np.ndarray:
    """The lowest bits of numbers, as bytes.

    Args:
        numbers: whole numbers.
        field: how many bits.
        has_more: whether the numbers have higher bits.
    """
    if field >= 8:
        return numbers.astype(f"<u{field // 8}", copy=False).view(np.uint8)
    low = numbers.astype(np.uint8, copy=False)
    if has_more:
        low = low & np.uint8(2**field - 1)
    if field == 1:
        return np.packbits(low, bitorder="little")
    word = WORDS[field]
    if surplus := len(low) % word.itemsize:
        low = np.append(low, np.zeros(word.itemsize - surplus, np.uint8))
    words = low.view(word)
    packed = words >> (8 - field)
    packed |= words
    for place in range(2, word.itemsize):
        packed |= words >> (8 - field) * place
    return packed.astype(np.uint8)


def _unpack_field(content: memoryview, count: int, field: int) -> np.ndarray:
    if field >= 8:
        return np.frombuffer(content, f"<u{field // 8}", count)
    packed = np.frombuffer(content, np.uint8)
    if field == 1:
        return np.unpackbits(packed, count=count, bitorder="little")
    word = WORDS[field]
    words = packed.astype(word)
    spread = words.copy()
    for place in range(1, word.itemsize):
        spread |= words << (8 - field) * place
    return spread.view(np.uint8)[:count] & np.uint8(2**field - 1)
