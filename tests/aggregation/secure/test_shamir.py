"""Shamir's secret sharing over the integers modulo 2^256 + 297."""

from itertools import combinations

import pytest

from fedlit.aggregation.secure.protocol import shamir
from fedlit.aggregation.secure.protocol.shamir import PRIME, combine_shares, lagrange_coefficients, split_secret


def combined(shares):
    return combine_shares(shares, lagrange_coefficients(list(shares)))


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_any_threshold_shares_give_the_secret(secret):
    shares = split_secret(secret, 3, [1, 2, 5, 9, 2**32])
    for size in (3, 4, 5):
        for points in combinations(shares, size):
            assert combined({point: shares[point] for point in points}) == secret


def test_a_polynomial_by_hand(monkeypatch):
    """f(z) = 7 + 3 z + 2 z^2."""
    coefficients = iter([3, 2])
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda below: next(coefficients))
    assert split_secret((7).to_bytes(32, "big"), 3, [1, 2, 3]) == {1: 12, 2: 21, 3: 34}


def test_fewer_shares_fit_any_secret():
    """For two shares of three there is a third share for each secret, so they say nothing about it."""
    shares = split_secret(bytes(32), 3, [1, 2, 3])
    del shares[3]
    for secret in (0, 1, 2**256 - 1):
        zero, one, two = lagrange_coefficients([1, 2, 3])
        third = (secret - zero * shares[1] - one * shares[2]) * pow(two, -1, PRIME) % PRIME
        assert combined({**shares, 3: third}) == secret.to_bytes(32, "big")


def test_coefficients_are_drawn_anew_for_each_secret():
    assert split_secret(bytes(32), 2, [1, 2]) != split_secret(bytes(32), 2, [1, 2])


@pytest.mark.parametrize(
    ("length", "threshold", "points"), [(31, 1, [1]), (32, 3, [1, 2]), (32, 0, [1]), (32, 2, [1, 1]), (32, 2, [0, 1])]
)
def test_secrets_that_cannot_be_shared_are_refused(length, threshold, points):
    with pytest.raises(ValueError, match="cannot share"):
        split_secret(bytes(length), threshold, points)


def test_wrong_shares_are_noticed_when_the_value_is_no_secret():
    (one,) = lagrange_coefficients([1])
    with pytest.raises(ValueError, match="do not fit"):
        combine_shares({1: 2**256 + 1}, [one])


def test_the_modulus_is_prime():
    """A Fermat test with many bases, and no small factor."""
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 60))
    assert all(PRIME % factor for factor in range(2, 10_000))
