"""Sketches of updates: linear, unbiased, exact for short vectors; cosines to the mean."""

import math

import pytest
import torch

from fedlit.aggregation.geometry import DIMENSIONS, cosines_to_mean, sketch


def vectors(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 100, DIMENSIONS])
def test_short_vectors_keep_inner_products_exactly(size):
    a, b = vectors(2, size)
    assert float(sketch(a, 1).dot(sketch(b, 1))) == pytest.approx(float(a.dot(b)), rel=1e-4, abs=1e-4)


def test_sketch_is_linear_and_the_same_for_one_seed():
    a, b = vectors(2, 100_001)
    torch.testing.assert_close(sketch(2 * a + b, 3), 2 * sketch(a, 3) + sketch(b, 3), rtol=1e-3, atol=1e-3)
    assert torch.equal(sketch(a, 3), sketch(a, 3))
    assert not torch.equal(sketch(a, 3), sketch(a, 4))
    assert sketch(a[:0], 3).tolist() == [0.0] * DIMENSIONS


def test_inner_products_are_unbiased_within_four_standard_errors():
    a, b = vectors(2, 5000)
    b = b + 0.5 * a
    products = torch.tensor([float(sketch(a, seed).dot(sketch(b, seed))) for seed in range(200)], dtype=torch.float64)
    error = float(products.std() / math.sqrt(len(products)))
    assert float(products.mean()) == pytest.approx(float(a.dot(b)), abs=4 * error)
    assert error < 0.1 * float(a.norm() * b.norm()) / math.sqrt(len(products))


def test_cosines_are_those_to_the_weighted_mean():
    updates, weights = vectors(5, 200_000) + 0.7, [1.0, 2.0, 3.0, 4.0, 5.0]
    mean = sum(weight * update for weight, update in zip(weights, updates, strict=True)) / sum(weights)
    expected = torch.nn.functional.cosine_similarity(updates, mean[None]).tolist()
    found = cosines_to_mean({i: w * sketch(u, 1) for i, (w, u) in enumerate(zip(weights, updates, strict=True))})
    assert [*found.values()] == pytest.approx(expected, abs=4 / math.sqrt(DIMENSIONS))
    assert [*found] == [0, 1, 2, 3, 4]


def test_updates_of_zeros_and_a_mean_of_zero_have_no_cosine():
    one = sketch(torch.ones(1000), 1)
    assert cosines_to_mean({}) == {}
    assert cosines_to_mean({1: one, 2: 0 * one}) == {1: pytest.approx(1.0)}
    assert cosines_to_mean({1: one, 2: -one}) == {}
