"""Epsilon of Skellam noise on sums of integers, by Rényi divergences.

Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021,
https://arxiv.org/abs/2110.04995. The bound here is smaller than theirs, and docs/distributed_noise.md proves it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import ive

from fedlit.aggregation.privacy.accounting.library import epsilon_of_divergences

ORDERS = (
    *(tenths / 10 for tenths in range(11, 110)),
    *range(11, 65),
    72,
    80,
    96,
    112,
    128,
    160,
    192,
    256,
    384,
    512,
    1024,
    4096,
)
"""Orders of Rényi divergences. Epsilon is at most 0.1 % larger than with all orders above 1."""

LARGE_VARIANCE = 50.0
"""Variance above which the series takes the place of Bessel functions, whose ratio loses digits."""


def log_bessel_ratio(variance: float) -> float:
    """An upper bound on ln(I_0(v) / I_1(v)), exact below `LARGE_VARIANCE`.

    Above it is the series 1/(2v) + 1/(4v^2) + 1/(4v^3), whose last coefficient is rounded up from 11/48.

    Args:
        variance: v, > 0.
    """
    if variance >= LARGE_VARIANCE:
        return (0.5 + (0.25 + 0.25 / variance) / variance) / variance
    first = float(ive(1, variance))
    return math.log(float(ive(0, variance)) / first) if first else math.inf


def skellam_divergence(order: float, square: int, size: int, variance: float) -> float:
    """Upper bound on the Rényi divergence between shifted Skellam vectors.

    D_order(X + a || X) <= ln(I_0(v) / I_1(v)) * (order * ||a||^2 + n / (4 (order - 1))) for a vector a of integers and
    independent X_j with variance v. n is 0 for a whole order, and else the number of integers other than 0, which is at most
    the vector's size and at most ||a||^2.

    Args:
        order: a number above 1.
        square: ||a||^2, or more.
        size: d, length of a.
        variance: v, > 0.
    """
    fractions = 0 if float(order).is_integer() else min(size, square)
    return (order * square + fractions / (4 * (order - 1))) * log_bessel_ratio(variance)


@lru_cache(4096)
def skellam_epsilon(releases: tuple[tuple[float, int], ...], square: int, size: int, delta: float) -> float:
    """Epsilon of releases of sums of integers, zero-out.

    Args:
        releases: variance of the noise on each number, > 0, and number of releases of each kind, at least one kind.
        square: largest squared norm of a client's integers.
        size: number of these integers.
        delta: in (0, 1).
    """
    divergences = [
        sum(count * skellam_divergence(order, square, size, variance) for variance, count in releases)
        for order in ORDERS
    ]
    return epsilon_of_divergences(ORDERS, np.asarray(divergences), delta)
