"""The float64 numbers of an update in blocks: the sum has the bits of whole vectors."""

import math

import pytest
import torch

from fedlit.aggregation import Aggregator, MeanAggregator, blocks
from fedlit.aggregation.blocks import Float64Blocks

SIZES = [0, 1, 15, 16, 17, 23, 24, 25, 32, 100]
WEIGHTS = [1, 60.0, 0.0, 0.1, 1 / 3, 2.0**29, 2.0**31 - 1, 1e300]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "LONG", 16)
    monkeypatch.setattr(blocks, "BLOCK", 8)


def vectors(size, dtype=torch.float32, count=3):
    """Vectors with numbers of all magnitudes, and both zeros."""
    generator = torch.Generator().manual_seed(size)
    numbers = torch.randn(count, size, generator=generator) * 10.0 ** torch.randint(
        -20, 20, (size,), generator=generator
    )
    numbers[:, 5::7] = -0.0
    return [*numbers.to(dtype)]


@pytest.mark.parametrize("size", SIZES)
def test_blocks_follow_each_other_and_have_all_numbers(size):
    (vector,) = vectors(size, count=1)
    numbers = Float64Blocks(vector)
    for _ in range(2):
        parts = [(place, block.clone()) for place, block in numbers]
        assert [place.start for place, _ in parts[1:]] == [place.stop for place, _ in parts[:-1]]
        assert torch.equal(torch.cat([block for _, block in parts]), vector.double())
    assert len(parts) == (1 if size <= 16 else -(-size // 8))
    assert numbers.is_single == (size <= 16)
    assert torch.equal(numbers.whole(), vector.double())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_square_of_any_part_is_exact(size, dtype):
    (vector,) = vectors(size, dtype, count=1)
    for start in range(0, size + 1, 3):
        for stop in {start, min(start + 5, size), min(start + 20, size), size}:
            exact = math.fsum(number**2 for number in vector[start:stop].tolist())
            assert Float64Blocks(vector).square(slice(start, stop)) == pytest.approx(exact, rel=1e-15, abs=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_mean_of_blocks_has_the_bits_of_the_mean_of_vectors(size, weight):
    mean, total, expected = MeanAggregator(), None, None
    for vector in vectors(size):
        before, numbers = vector.clone(), Float64Blocks(vector)
        numbers.square(slice(0, size))
        total, expected = mean.add_float32(total, numbers, weight), mean.add(expected, vector.double(), weight)
        assert torch.equal(vector, before)
        assert torch.equal(total.view(torch.int64), expected.view(torch.int64))  # zeros have signs


class Largest(MeanAggregator):
    """A rule that needs all numbers at once."""

    def add(self, total, vector, weight):
        return super().add(total, vector / vector.abs().max(), weight)


class Kept(Aggregator):
    """A rule that keeps the vectors."""

    keeps_messages = True

    def add(self, total, vector, weight):
        return vector[None] if total is None else torch.cat([total, vector[None]])

    def merge(self, left, right):
        return torch.cat([left, right])

    def finish(self, total, weight):
        return total.median(0).values


@pytest.mark.parametrize("rule", [Largest(), Kept()])
def test_other_rules_get_all_numbers_in_float64(rule):
    total, expected = None, None
    for vector in vectors(100):
        total = rule.add_float32(total, Float64Blocks(vector), 3.0)
        expected = rule.add(expected, vector.double(), 3.0)
    assert torch.equal(total, expected)
