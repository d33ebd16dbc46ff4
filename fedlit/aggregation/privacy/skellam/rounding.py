"""Stochastic rounding that is repeated if the result is too long.

Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation", ICML 2021,
https://arxiv.org/abs/2102.06387, Section 4.1.
"""

from __future__ import annotations

import math

import numpy as np

MAX_DRAWS = 1000
"""Draws of a rounding before its vector counts as too long."""


def rounded_square(norm: float, size: int, beta: float) -> int:
    """The largest squared norm of a conditionally rounded vector.

    Rounding moves each of the d numbers by less than 1, so the norm grows by less than sqrt(d). With probability 1 - beta the
    squared norm is at most c^2 + d/4 + sqrt(2 ln(1 / beta)) (c + sqrt(d) / 2): the squares of the numbers are independent, that
    of y_j has two values which differ by |2 floor(y_j) + 1|, and the sum of the squares of these widths is at most
    4 (c + sqrt(d) / 2)^2, so this is Hoeffding's inequality. The smaller of both bounds holds.

    Args:
        norm: c, the largest norm of a vector before it is rounded, in steps of the grid.
        size: d, length of the vector.
        beta: probability that a rounded vector is longer, so that it is drawn again, in (0, 1).

    Returns:
        A whole number, as the squared norm of integers is.
    """
    always = (norm + math.sqrt(size)) ** 2
    mostly = norm**2 + size / 4 + math.sqrt(-2 * math.log(beta)) * (norm + math.sqrt(size) / 2)
    return math.floor(min(always, mostly))


def round_conditionally(vector: np.ndarray, square: int, generator: np.random.Generator) -> np.ndarray:
    """Round numbers at random, until the vector is short enough.

    Args:
        vector: float64 of shape (d,), in steps of the grid; not changed.
        square: largest squared norm of the result, below 2^53.
        generator: draws the directions.

    Returns:
        Whole numbers as float64, shape (d,); their squared norm is at most `square`, exactly.

    Raises:
        ValueError: if the vector is so long that no draw is short enough.
    """
    lower = np.floor(vector)
    fraction = vector - lower
    for _ in range(MAX_DRAWS):
        rounded = lower + (generator.random(len(vector)) < fraction)
        if float(rounded @ rounded) <= square:  # sums of whole numbers below 2^53 are exact
            return rounded
    problem = f"a vector with the squared norm {float(vector @ vector):.6g} is longer than the grid allows"
    raise ValueError(f"{problem}: at most {square} after rounding")
