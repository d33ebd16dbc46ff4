"""The noise multiplier for a target of epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fedlit.aggregation.privacy.accounting.accountant import Accountant
from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least

RANGE = (0.05, 1e6)
"""Smallest and largest noise multiplier of the search."""

PRECISION = 2e-3
"""Relative distance below the target at which the search ends; the result is then rounded up to 4 digits."""


@lru_cache(256)
def calibrate(accountant: Accountant, epsilon: float, rounds: int) -> float:
    """The noise multiplier with which `rounds` rounds spend epsilon.

    It is rounded up to 4 significant digits, so that the printed number is the number in use. The search begins with an upper
    bound of epsilon that is computed soon, and ends with the accountant's own value.

    Args:
        accountant: sampling and delta; its noise multiplier is not read.
        epsilon: the target, > 0; infinity needs no noise.
        rounds: rounds of the run, >= 1.

    Returns:
        A noise multiplier with which the rounds spend at most epsilon, and at least 0.99 epsilon.

    Raises:
        ConfigError: if no noise multiplier between 0.05 and 1e6 does.
    """
    raise_errors(
        require(epsilon > 0, "epsilon", epsilon, "must be greater than 0", "epsilon=inf adds no noise"),
        require_at_least("rounds", rounds),
    )
    if epsilon == math.inf:
        return 0.0

    def spent(noise: float) -> float:
        return accountant.with_noise(noise).epsilon(rounds)

    def bound(noise: float) -> float:
        return accountant.with_noise(noise).fast_epsilon(rounds)

    least, most = RANGE
    if spent(10 * least) <= epsilon and spent(least) <= epsilon:  # the first takes a fiftieth of the time
        problem = f"needs less noise than the multiplier {least:g}, and so little noise protects nothing"
        raise ConfigError("epsilon", epsilon, problem, "take a smaller epsilon, or epsilon=inf for a run without noise")
    if bound(most) > epsilon:
        found = f"noise multiplier {most:g} still spends {spent(most):.3g}"
        problem = f"cannot be reached in {rounds} rounds at delta={accountant.delta:g} by {accountant.method}: {found}"
        raise ConfigError("epsilon", epsilon, problem, "take a larger epsilon or delta")
    noise = _solve(bound, epsilon, 1.0, slope=-1.0)
    if spent(noise) < (1 - 2 * PRECISION) * epsilon:
        slope = math.log(max(bound(1.05 * noise), 1e-300) / bound(noise)) / math.log(1.05)
        noise = _solve(spent, epsilon, noise, slope)
    return _round_up(noise)


def _solve(spent: Callable[[float], float], epsilon: float, start: float, slope: float) -> float:
    """A noise multiplier that spends nearly epsilon, and not more.

    It is searched by secants between logarithms: epsilon is close to a power of the noise multiplier.

    Args:
        spent: epsilon of a noise multiplier, decreasing; above the target at the lower end of `RANGE`, below at the upper end.
        epsilon: the target.
        start: first noise multiplier.
        slope: slope of the logarithms at the start, < 0.
    """
    low, high = map(math.log, RANGE)
    here, last = math.log(start), None
    for _ in range(100):
        excess = math.log(max(spent(math.exp(here)), 1e-300) / epsilon) + PRECISION
        if abs(excess) < PRECISION:
            return math.exp(here)
        low, high = (here, high) if excess > 0 else (low, here)
        if last is not None and (excess - last[1]) * (here - last[0]) < 0:
            slope = (excess - last[1]) / (here - last[0])
        last = here, excess
        here -= excess / slope
        if not low < here < high:
            here = (low + high) / 2
    return math.exp(high)


def _round_up(noise: float) -> float:
    digits = 3 - math.floor(math.log10(noise))
    return math.ceil(noise * 10**digits - 1e-9) / 10**digits
