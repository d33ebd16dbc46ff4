"""Banded matrix factorisation: columns, sensitivity, optimality."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from fedlit.aggregation.privacy.banded import (
    MAX_OPTIMIZED_ROUNDS,
    _dense,
    _error_and_gradient,
    optimal_columns,
    square_root_coefficients,
    substitution_row,
    total_error,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of a busy machine make products of small matrices slow."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.mark.parametrize(("rounds", "bands"), [(1, 1), (5, 1), (7, 3), (12, 12), (20, 4)])
def test_columns_have_norm_1_and_the_matrix_has_its_bands(rounds, bands):
    columns = optimal_columns(rounds, bands)
    strategy = _dense(columns)
    assert columns.shape == (rounds, bands)
    assert np.linalg.norm(strategy, axis=0) == pytest.approx(np.ones(rounds))
    assert np.all(np.tril(strategy) == strategy)
    assert np.all(np.tril(strategy, -bands) == 0)
    assert np.all(np.diag(strategy) > 0)


def test_rows_of_the_substitution_are_those_of_the_matrix():
    columns = optimal_columns(7, 3)
    strategy = _dense(columns)
    for number in range(7):
        row = substitution_row(columns, number)
        assert row.tolist() == strategy[number, max(0, number - 2) : number + 1][::-1].tolist()


@pytest.mark.parametrize(("rounds", "bands"), [(6, 2), (10, 3), (12, 5)])
def test_separated_participations_move_the_strategy_by_the_root_of_their_number(rounds, bands):
    """All patterns of rounds that are at least `bands` apart, with the worst signs."""
    strategy = _dense(optimal_columns(rounds, bands))
    largest = 0.0
    for bits in range(1, 2**rounds):
        chosen = [number for number in range(rounds) if bits >> number & 1]
        if all(b - a >= bands for a, b in pairwise(chosen)):
            largest = max(largest, float(np.linalg.norm(np.abs(strategy[:, chosen]).sum(axis=1))))
    assert largest == pytest.approx(np.sqrt(-(-rounds // bands)))


def test_one_band_is_independent_noise():
    assert _dense(optimal_columns(9, 1)).tolist() == np.eye(9).tolist()
    assert total_error(optimal_columns(9, 1)) == pytest.approx(np.sqrt(5.0))  # the mean of 1, ..., 9


def test_two_rounds_agree_with_the_minimum_by_hand():
    """C = [[a, 0], [b, 1]] with a^2 + b^2 = 1; the noise on the prefix sums is A C^-1."""
    angles = np.linspace(0, np.pi / 2 - 1e-3, 100_001)
    a, b = np.cos(angles), np.sin(angles)
    by_hand = np.sqrt((1 / a**2 + ((1 - b) / a) ** 2 + 1) / 2).min()
    assert total_error(optimal_columns(2, 2)) == pytest.approx(by_hand, rel=1e-8)


def test_the_gradient_is_that_of_the_error():
    inside = np.arange(6)[:, None] + np.arange(3) < 6
    free = np.random.default_rng(0).random(int(inside.sum())) + 0.5
    steps = 1e-6 * np.eye(len(free))
    exact = [
        (_error_and_gradient(free + e, inside)[0] - _error_and_gradient(free - e, inside)[0]) / 2e-6 for e in steps
    ]
    assert _error_and_gradient(free, inside)[1] == pytest.approx(exact, rel=1e-5, abs=1e-6)


def test_more_bands_have_less_error_and_the_search_improves_on_the_square_root():
    errors = [total_error(optimal_columns(40, bands)) for bands in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    start = np.where(np.arange(40)[:, None] + np.arange(8) < 40, square_root_coefficients(8), 0.0)
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    assert total_error(optimal_columns(40, 8)) < 0.98 * total_error(start)


def test_another_start_has_the_same_minimum():
    inside = np.arange(20)[:, None] + np.arange(4) < 20
    free = np.where(inside, [1.0, 0.0, -0.2, 0.3], 0.0)[inside]
    other = minimize(lambda x: _error_and_gradient(x, inside), free, jac=True, method="L-BFGS-B")
    assert total_error(optimal_columns(20, 4)) == pytest.approx(np.sqrt(other.fun / 20), rel=1e-4)


def test_square_root_coefficients_square_to_ones():
    coefficients = square_root_coefficients(6)
    assert np.convolve(coefficients, coefficients)[:6] == pytest.approx(np.ones(6))


def test_a_long_run_keeps_the_square_root():
    rounds = MAX_OPTIMIZED_ROUNDS + 1
    columns = optimal_columns(rounds, 3)
    assert columns[0] == pytest.approx(np.array([1, 0.5, 0.375]) / np.linalg.norm([1, 0.5, 0.375]))
    assert np.linalg.norm(columns, axis=1) == pytest.approx(np.ones(rounds))
