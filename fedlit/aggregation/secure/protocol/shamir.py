"""Shamir's secret sharing of 32-byte secrets.

A secret is a polynomial's value at 0, over the integers modulo the prime 2^256 + 297. Any `threshold` shares give the secret,
and fewer say nothing about it. Source: Shamir, How to Share a Secret, 1979, https://doi.org/10.1145/359168.359176
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**256 + 297
"""The smallest prime above 2^256, so that each 32-byte secret is an element."""

SHARE_BYTES = 33
"""Length of a share on the wire."""


def split_secret(secret: bytes, threshold: int, points: Sequence[int]) -> dict[int, int]:
    """Share a secret; the polynomial comes from the operating system.

    Args:
        secret: 32 bytes.
        threshold: shares that give the secret, >= 1.
        points: where the polynomial is evaluated, distinct and in [1, 2^32].

    Returns:
        The share at each point.

    Raises:
        ValueError: if there are fewer points than the threshold, or two are equal or one is 0.
    """
    if len(secret) != 32 or not 1 <= threshold <= len(points) or len({0, *points}) != len(points) + 1:
        raise ValueError(f"cannot share {len(secret)} bytes at {len(points)} points with threshold {threshold}")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    coefficients.reverse()
    shares = {}
    for point in points:
        value = 0
        for coefficient in coefficients:
            value = (value * point + coefficient) % PRIME
        shares[point] = value
    return shares


def lagrange_coefficients(points: Sequence[int]) -> list[int]:
    """Coefficients that interpolate a polynomial's value at 0 from `points`."""
    coefficients = []
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - point) % PRIME
        coefficients.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return coefficients


def combine_shares(shares: Mapping[int, int], coefficients: Sequence[int]) -> bytes:
    """Return the secret of some shares.

    Args:
        shares: the share at each point, as many as the threshold or more.
        coefficients: see `lagrange_coefficients`, for the same points in the same order.

    Raises:
        ValueError: if the value has more than 32 bytes, so at least one share is wrong.
    """
    value = sum(share * coefficient for share, coefficient in zip(shares.values(), coefficients, strict=True)) % PRIME
    if value >> 256:
        raise ValueError("the shares of a secret do not fit together")
    return value.to_bytes(32, "big")
