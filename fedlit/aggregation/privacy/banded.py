"""Banded matrix factorisation: noise of several rounds that cancels in their sum.

The server publishes the prefix sums A G of the rounds' sums G, A being the lower triangle of ones, as A (G + C^-1 Z) with
independent Gaussian Z. The strategy C is lower triangular with `bands` diagonals and columns of norm 1. A client whose rounds
are at least `bands` apart meets columns without a common row, so its k updates of norm 1 move C G by at most sqrt(k).

Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu, "(Amplified) Banded Matrix Factorization: A unified approach to
private training", NeurIPS 2023, https://arxiv.org/abs/2306.08153
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

MAX_STEPS = 100
"""Steps of the optimizer: more improve the error by less than a thousandth."""

MAX_OPTIMIZED_ROUNDS = 512
"""Rounds up to which the strategy is optimized: time grows with their third power. Longer runs keep the square-root start."""


def square_root_coefficients(count: int) -> np.ndarray:
    """Coefficients of (1 - x)^(-1/2), the square root of prefix sums.

    Source: Fichtenberger, Henzinger, Upadhyay, "Constant matters", ICML 2023, https://arxiv.org/abs/2202.11205

    Returns:
        float64 of shape (count,): 1, 1/2, 3/8, ...
    """
    k = np.arange(1, count)
    return np.cumprod(np.concatenate([[1.0], (2 * k - 1) / (2 * k)]))


def total_error(columns: np.ndarray) -> float:
    """Root mean square of the prefix sums' noise.

    It is for independent noise of standard deviation 1.

    Args:
        columns: see `optimal_columns`.
    """
    noise = _prefix_noise(_dense(columns))
    return float(np.sqrt((noise**2).sum() / len(columns)))


@lru_cache(maxsize=8)
def optimal_columns(rounds: int, bands: int) -> np.ndarray:
    """The columns of the strategy with the least total error.

    The Gram matrix of the strategy is the variable of a convex problem, and it has one such factor. So the minimum over the
    factor's entries is the global one. The search starts from the matrix square root.

    Args:
        rounds: rounds of the run, >= 1.
        bands: number of diagonals, >= 1 and at most `rounds`.

    Returns:
        float64 of shape (rounds, bands), read-only: [j, k] is the entry in row j + k and column j. Each row of the array has
        norm 1.
    """
    inside = np.arange(rounds)[:, None] + np.arange(bands) < rounds
    start = np.where(inside, square_root_coefficients(bands), 0.0)
    if bands > 1 and rounds <= MAX_OPTIMIZED_ROUNDS:
        with threadpool_limits(1, user_api="blas"):  # the last bits of products depend on the number of threads
            start[inside] = _minimize(start[inside], inside)
    columns = start / np.linalg.norm(start, axis=1, keepdims=True)
    columns *= np.sign(columns[:, :1])
    columns.setflags(write=False)
    return columns


def _minimize(free: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The entries with the least error, from a start: see `_error_and_gradient`."""
    options = {"maxiter": MAX_STEPS}
    return minimize(lambda x: _error_and_gradient(x, inside), free, jac=True, method="L-BFGS-B", options=options).x


def _error_and_gradient(free: np.ndarray, inside: np.ndarray) -> tuple[float, np.ndarray]:
    """The square of the prefix sums' noise, and its gradient.

    Args:
        free: entries of the columns, not normalised, in the order of `inside`.
        inside: True for entries in the matrix, shape (rounds, bands).
    """
    entries = np.zeros(inside.shape)
    entries[inside] = free
    lengths = np.linalg.norm(entries, axis=1, keepdims=True)
    columns = entries / lengths
    strategy = _dense(columns)
    noise = _prefix_noise(strategy)  # A C^-1; its square's derivative is -2 (A C^-1)^T (A C^-1) C^-T
    full = solve_triangular(strategy, noise.T @ noise, lower=True).T
    column, band = np.nonzero(inside)
    slope = np.zeros(inside.shape)
    slope[inside] = -2 * full[column + band, column]
    slope = (slope - (slope * columns).sum(axis=1, keepdims=True) * columns) / lengths  # through the normalisation
    return float((noise**2).sum()), slope[inside]


def _dense(columns: np.ndarray) -> np.ndarray:
    rounds, bands = columns.shape
    strategy = np.zeros((rounds, rounds))
    for band in range(bands):
        column = np.arange(rounds - band)
        strategy[column + band, column] = columns[: rounds - band, band]
    return strategy


def _prefix_noise(strategy: np.ndarray) -> np.ndarray:
    """The product A C^-1, A being the lower triangle of ones."""
    prefix = np.tri(len(strategy))
    return solve_triangular(strategy.T, prefix.T, lower=False).T


def substitution_row(columns: np.ndarray, round: int) -> np.ndarray:
    """The strategy's entries in one row, from the diagonal to the left.

    Args:
        columns: see `optimal_columns`.
        round: the row, counted from 0.

    Returns:
        float64 of shape (min(bands, round + 1),): [k] is the entry in column round - k.
    """
    bands = np.arange(min(columns.shape[1], round + 1))
    return columns[round - bands, bands]
