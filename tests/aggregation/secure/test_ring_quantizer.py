"""Quantisation to integers in a ring."""

import numpy as np
import pytest

from fedlit.aggregation.secure.quantizer import RingQuantizer
from fedlit.core.errors import ConfigError


def quantizer(**options):
    return RingQuantizer(**{"range": 1.0, "bits": 8, "ring": 32, **options})


def rng(seed=0):
    return np.random.default_rng(seed)


def opened(some, *vectors, weights=None):
    weights = weights or [1] * len(vectors)
    parts = [
        some.quantize(np.asarray(x, np.float32), w, rng(i))
        for i, (x, w) in enumerate(zip(vectors, weights, strict=True))
    ]
    return some.dequantize(some.signed(sum(parts[1:], parts[0])))


def test_grid_points_are_exact_and_the_weight_is_one_more_integer():
    some = quantizer(max_weight=5)
    assert some.levels == 127
    x = [0.0, 1.0, -1.0]
    total, weight, clipped = opened(some, x, x, weights=[5, 5])
    assert total.tolist() == pytest.approx([0.0, 10.0, -10.0], abs=1e-12)
    assert (weight, clipped) == (10.0, 0)
    assert total[0] == 0


def test_larger_coordinates_are_clipped_and_counted():
    total, weight, clipped = opened(quantizer(), [2.0, -3.0, 1.0, 0.0], [0.0, -1.5, 0.0, 0.0])
    assert total.tolist() == pytest.approx([1.0, -2.0, 1.0, 0.0])
    assert (weight, clipped) == (2.0, 3)


def test_clipping_is_of_the_update_and_not_of_its_product_with_the_weight():
    _, _, clipped = opened(quantizer(max_weight=10), [1.0, -0.9], weights=[10])
    assert clipped == 0


@pytest.mark.parametrize("ring", [32, 64])
def test_a_sum_of_negative_numbers_comes_back_from_the_ring(ring):
    some = quantizer(ring=ring, bits=20)
    vectors = [rng(seed).uniform(-1, 0, 50) for seed in range(30)]
    total, weight, _ = opened(some, *vectors)
    assert weight == 30
    assert np.abs(total - np.sum(vectors, 0)).max() < 30 * some.step


def test_rounding_is_unbiased_and_to_a_neighbour_on_the_grid():
    some = quantizer(bits=3)  # levels -3 to 3
    x = np.full(20_000, 0.4, np.float32)  # 1.2 steps
    integers = some.quantize(x, 1, rng()).view(np.int32)[:-2]
    assert set(integers.tolist()) == {1, 2}
    assert integers.mean() == pytest.approx(1.2, abs=0.015)  # 5 standard deviations


def test_the_random_numbers_are_the_clients_own():
    x = rng().uniform(-1, 1, 100)
    some = quantizer()
    assert (some.quantize(x, 1, rng(1)) == some.quantize(x, 1, rng(1))).all()
    assert (some.quantize(x, 1, rng(1)) != some.quantize(x, 1, rng(2))).any()


@pytest.mark.parametrize("weight", [0.5, -1, 4, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_masked_is_refused(weight):
    with pytest.raises(
        ConfigError, match=r"algorithm: gives a client the weight .*, and a mask needs a whole number from 0 to 3"
    ):
        quantizer(max_weight=3).quantize(np.zeros(2), weight, rng())


def test_a_client_of_weight_0_adds_nothing():
    total, weight, _ = opened(quantizer(max_weight=3), [1.0, -1.0], [0.5, 0.5], weights=[0, 3])
    assert weight == 3
    assert np.abs(total - 1.5).max() < quantizer(max_weight=3).step


@pytest.mark.parametrize(
    ("clients", "options", "size", "word"),
    [
        (129, {"bits": 25}, 10, "coordinate"),
        (2, {"max_weight": 2**30}, 10, "weight"),
        (3000, {}, 10**6, "clipped"),
    ],
)
def test_a_sum_that_could_leave_the_ring_is_refused(clients, options, size, word):
    (error,) = quantizer(**options).overflows(clients, size)
    assert word in error.problem
    assert error.key == "ring"
    assert list(quantizer(**{**options, "ring": 64}).overflows(clients, size)) == []


def test_the_largest_sum_that_is_allowed_does_not_leave_the_ring():
    some = quantizer(bits=25)
    assert list(some.overflows(128, 10)) == []
    part = some.quantize(np.array([-1.0, 1.0]), 1, rng())
    total, weight, _ = some.dequantize(some.signed(part * np.uint32(128)))
    assert total.tolist() == pytest.approx([-128.0, 128.0])
    assert weight == 128


@pytest.mark.parametrize(
    "options", [{"range": 0}, {"range": float("nan")}, {"bits": 1}, {"bits": 33}, {"ring": 16}, {"max_weight": 0}]
)
def test_figures_outside_their_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        quantizer(**options)
