"""Whole numbers and sets of positions in a few bits each: lossless, and as short as promised."""

import numpy as np
import pytest

from fedlit.aggregation.compression.bits import pack_bits, packed_nbytes, unpack_bits
from fedlit.aggregation.compression.indices import indices_nbytes, pack_indices, unpack_indices


@pytest.mark.parametrize("width", range(33))
def test_numbers_come_back_from_their_bytes(width):
    generator = np.random.default_rng(width)
    for count in [0, 1, 2, 3, 7, 8, 9, *generator.integers(10, 500, 10)]:
        dtype = np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32
        numbers = generator.integers(0, 2**width, count, dtype=np.uint64).astype(dtype)
        content = pack_bits(numbers, width)
        unpacked = unpack_bits(memoryview(content + b"more"), count, width)
        assert unpacked.tolist() == numbers.tolist()
        assert unpacked.dtype == dtype
        assert len(content) == packed_nbytes(count, width)
        assert -(-count * width // 8) <= len(content) <= -(-count * width // 8) + 4  # each field ends with a whole byte


def test_the_largest_numbers_of_a_width_keep_all_bits():
    for width in range(1, 33):
        numbers = np.full(11, 2**width - 1, np.uint32)
        assert unpack_bits(memoryview(pack_bits(numbers, width)), 11, width).tolist() == numbers.tolist()


def test_sets_of_positions_come_back_from_their_bytes():
    generator = np.random.default_rng(0)
    for _ in range(500):
        size = int(generator.integers(1, 200 if generator.random() < 0.8 else 5000))
        count = int(generator.integers(0, size + 1))
        indices = np.sort(generator.choice(size, count, replace=False))
        content = pack_indices(indices, size)
        assert len(content) == indices_nbytes(count, size)
        assert unpack_indices(memoryview(content + b"more"), count, size).tolist() == indices.tolist()


@pytest.mark.parametrize("indices", [[0, 1, 2], [97, 98, 99], [0, 99], [50]])
def test_positions_that_are_far_from_even_come_back(indices):
    content = pack_indices(np.array(indices), 100)
    assert unpack_indices(memoryview(content), len(indices), 100).tolist() == indices


def test_a_set_takes_fewer_bits_than_fixed_indices_and_never_more_than_a_bitmap():
    for size in (100, 10_000, 1_000_000):
        for count in (1, size // 100, size // 10, size // 2, size - 1):
            bits = 8 * indices_nbytes(count, size)
            fixed = count * (size - 1).bit_length()
            assert bits <= min(fixed, size) + 16
            assert bits <= count * (np.log2(size / count) + 3) + 24
    assert indices_nbytes(0, 100) == indices_nbytes(100, 100) == 0
    assert 8 * indices_nbytes(10_000, 1_000_000) / 10_000 == pytest.approx(8.56, abs=0.01)  # the entropy is 8.08
