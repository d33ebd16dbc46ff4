"""Sketches of updates: linear, unbiased, exact for short vectors; cosines to the mean."""

import math

import pytest
import torch

from fedlit.aggregation.geometry import CELLS, DIMENSIONS, Projection, cosines_to_mean, sketch


def vectors(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spaced(size, distance):
    """A vector with a number at each multiple of a distance, and zeros between."""
    vector = torch.zeros(size, dtype=torch.float64)
    vector[::distance] = vectors(1, len(vector[::distance]))[0]
    return vector


@pytest.mark.parametrize("size", [1, 100, DIMENSIONS])
def test_short_vectors_keep_inner_products_exactly(size):
    a, b = vectors(2, size)
    assert float(sketch(a, 1).dot(sketch(b, 1))) == pytest.approx(float(a.dot(b)), rel=1e-4, abs=1e-4)


def test_sketch_is_linear_and_the_same_for_one_seed():
    a, b = vectors(2, 100_001)
    torch.testing.assert_close(sketch(2 * a + b, 3), 2 * sketch(a, 3) + sketch(b, 3), rtol=1e-3, atol=1e-3)
    assert torch.equal(sketch(a, 3), sketch(a, 3))
    assert torch.equal(sketch(a, 3), sketch(a.float(), 3))
    assert not torch.equal(sketch(a, 3), sketch(a, 4))
    assert sketch(a[:0], 3).tolist() == [0.0] * DIMENSIONS


@pytest.mark.parametrize("size", [DIMENSIONS + 1, 4096, 8191, 100_000])
def test_sketch_sums_each_number_with_its_sign_in_the_bucket_of_its_cell(size):
    numbers, drawn = vectors(1, size)[0].float(), Projection.draw(size, 5)
    cells = len(drawn.buckets)
    rows, columns = torch.arange(size) // cells, torch.arange(size) % cells
    signs = torch.tensor(drawn.signs)[rows, columns] * torch.tensor(drawn.cell_signs)[columns]
    expected = torch.zeros(DIMENSIONS, dtype=torch.float64)
    expected.index_add_(0, torch.tensor(drawn.buckets)[columns], (signs * numbers).double())
    torch.testing.assert_close(sketch(numbers, 5).double(), expected, rtol=1e-4, atol=1e-4)
    assert cells in CELLS
    assert set(signs.tolist()) == {1.0, -1.0}
    assert torch.bincount(torch.tensor(drawn.buckets)).aminmax() == (cells // DIMENSIONS, cells // DIMENSIONS + 1)


def test_signs_of_a_long_vector_take_as_many_bytes_as_it_has_numbers():
    signs = Projection.draw(1_000_000, 1).signs.base
    while signs.base is not None:
        signs = signs.base
    assert signs.nbytes == pytest.approx(1_000_000, rel=0.05)


def inner_products(a, b, seeds):
    """Inner products of sketches, in multiples of |a| |b|."""
    products = [float(sketch(a, seed).double().dot(sketch(b, seed).double())) for seed in seeds]
    return torch.tensor(products, dtype=torch.float64) / (a.norm() * b.norm())


def test_inner_products_are_unbiased_within_four_standard_errors():
    a, b = vectors(2, 5000)
    b = b + 0.5 * a
    products = inner_products(a, b, range(200))
    cosine = float(a.dot(b) / (a.norm() * b.norm()))
    assert float(products.mean()) == pytest.approx(cosine, abs=4 * float(products.std()) / math.sqrt(200))
    assert float(products.std()) == pytest.approx(math.sqrt((1 + cosine**2) / DIMENSIONS), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vector", "bound"),
    [
        (torch.ones(60_000, dtype=torch.float64), 1.0),
        (spaced(60_000, DIMENSIONS), 1.0),  # one column of a layer
        (spaced(60_000, 4096), 1.0),
        (spaced(60_000, CELLS[200]), 2.2),  # all numbers in one cell, for one of 464 primes
        (1 / torch.arange(1, 60_001, dtype=torch.float64), 1.0),
        (vectors(1, 60_000)[0], 1.0),
    ],
)
def test_standard_error_holds_for_vectors_of_any_shape(vector, bound):
    products = inner_products(vector, vector, range(400))
    error = math.sqrt(2 / DIMENSIONS)
    assert float(products.mean()) == pytest.approx(1.0, abs=4 * bound * error / math.sqrt(400))
    assert float(products.std()) < 1.25 * bound * error


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


@pytest.mark.parametrize("size", [10, 1000, 100_000])
def test_numbers_too_large_for_a_sketch_give_no_cosine_and_no_warning(size):
    huge, one = torch.full((size,), 3e38), torch.ones(size)
    assert cosines_to_mean({1: 1e3 * sketch(huge, 1), 2: sketch(one, 1)}) == {}
