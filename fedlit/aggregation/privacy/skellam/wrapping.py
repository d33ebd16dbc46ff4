"""The probability that a sum of noisy integers leaves its ring."""

from __future__ import annotations

import math

SPLITS = 64
"""Splits of the ring's half between signal and noise that are tried."""


def skellam_tail(distance: float, variance: float) -> float:
    """Upper bound on the logarithm of P(|X| >= distance), X Skellam.

    It is Chernoff's bound with E exp(s X) = exp(variance * (cosh s - 1)) at its minimum s = asinh(distance / variance).

    Args:
        distance: > 0.
        variance: variance of X, >= 0.
    """
    if variance == 0:
        return -math.inf
    ratio = distance / variance
    cosh_minus_1 = ratio**2 / (math.sqrt(1 + ratio**2) + 1)  # without cancellation
    return math.log(2) + variance * cosh_minus_1 - distance * math.asinh(ratio)


def wrap_probability(*, ring: int, clients: int, norm: float, variance: float, size: int, is_rotated: bool) -> float:
    """Upper bound on the probability that a sum leaves the ring.

    A number of the sum is at most clients * norm. After a random rotation it is a sum of signed numbers whose squares add up to
    (clients * norm)^2 / (size - 1), so that Hoeffding's inequality limits it too. Rounding moves it by at most 1 a client. The
    union bound is taken over all numbers.

    Args:
        ring: sums are modulo 2^ring, and decoded to signed numbers.
        clients: clients of the largest group.
        norm: largest norm of a client's vector, in steps of the grid.
        variance: variance of the noise of one client.
        size: numbers in a sum. One of them is not rotated, and far smaller than the ring.
        is_rotated: whether the vectors are rotated, with signs that do not depend on them.

    Returns:
        A number in [0, 1].
    """
    room, most, noise = 2.0 ** (ring - 1) - clients, clients * norm, clients * variance
    if room <= 0:
        return 1.0
    found = 0.0
    for split in range(1, SPLITS):
        signal = room * split / SPLITS
        logs = [skellam_tail(room - signal, noise)]
        if signal < most:
            logs.append(math.log(2) - signal**2 * (size - 1) / (2 * most**2) if is_rotated else 0.0)
        found = min(found, math.log(size) + max(logs) + math.log(len(logs)))
    return math.exp(found)
