"""Epsilon from Google's dp-accounting, the only file that imports it.

PLD: Koskela, Jälkö, Honkela, "Computing Tight Differential Privacy Guarantees Using FFT", AISTATS 2020,
https://arxiv.org/abs/1906.03049.
RDP under Poisson sampling: Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019,
https://arxiv.org/abs/1908.10530.
RDP with a fixed size: Wang, Balle, Kasiviswanathan, "Subsampled Rényi Differential Privacy and Analytical Moments Accountant",
AISTATS 2019, https://arxiv.org/abs/1808.00087.
Gaussian mechanism: Balle, Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018,
https://arxiv.org/abs/1805.06530.

A noise multiplier is the standard deviation of the noise divided by the largest norm of one client's contribution.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError

Releases = tuple[tuple[float, float, int], ...]
"""Kinds of releases: noise multiplier, probability of a client, number of releases."""

INTERVAL_SHARE = 0.04
"""Interval of the grid of privacy losses, in standard deviations of the loss of one release."""

NORMAL_RATIO = 6.0
"""Epsilon in standard deviations of the whole loss, up to which that loss is nearly normal."""

INTERVAL_EXPONENTS = (-17, -7)
"""Exponents of two of the smallest and the largest interval of the grid."""

FAST_ORDERS = (*range(2, 24), 28, 32, 40, 48, 64, 96, 128, 256)
"""Orders of Rényi divergences for upper bounds: whole numbers, of which the library is sure."""

LEAST_DIVERGENCE = 1e-10
"""Smallest Rényi divergence of a release; smaller ones are lost in rounding, and the library takes negative ones for 0."""


@cache
def _library() -> Any:
    """The modules of dp-accounting.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        with redirect_stderr(
            sys.__stderr__
        ):  # absl makes a log handler at import, and the handler closes any other stream
            import dp_accounting
            from dp_accounting import pld, rdp
    except ImportError as error:
        problem = f"needs dp-accounting: {error}"
        raise ConfigError(
            "privacy", "", problem, "pip install 'fedlit[dp]' installs dp-accounting and opacus"
        ) from error
    relation = dp_accounting.NeighboringRelation
    return SimpleNamespace(events=dp_accounting, pld=pld.privacy_loss_distribution, rdp=rdp, relation=relation)


@lru_cache(4096)
def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism, exact.

    T releases with multiplier z are one release with z / sqrt(T).
    """
    with np.errstate(divide="ignore"):  # under so much noise that no delta is lost to it
        return float(_library().events.get_epsilon_gaussian(noise_multiplier, delta))


@lru_cache(4096)
def poisson_epsilon(releases: Releases, delta: float) -> float:
    """Epsilon under Poisson sampling, add-or-remove, by privacy loss distributions.

    It is an upper bound. The grid of privacy losses makes it at most 0.1 % larger, and some per cent where a client is in less
    than one of 1,000 cohorts and epsilon is below 0.1.

    Args:
        releases: noise multiplier > 0, probability in (0, 1] and number >= 1 of each kind, at least one kind.
        delta: in (0, 1).
    """
    interval, total = _interval(releases, delta), None
    for noise, probability, count in releases:
        composed = _poisson_loss(noise, probability, interval).self_compose(count)
        total = composed if total is None else total.compose(composed)
    assert total is not None
    return max(0.0, float(total.get_epsilon_for_delta(delta)))


def _interval(releases: Releases, delta: float) -> float:
    """Interval of the grid of privacy losses, a power of two.

    The variance of a release's privacy loss is about q^2 (exp(1 / z^2) - 1). The sum of many losses is nearly normal, and a
    wide grid makes it wider. A few releases have an epsilon that rare large losses decide, and a wider grid does no harm.
    """
    variances = [probability**2 * math.expm1(min(noise**-2, 50.0)) for noise, probability, _ in releases]
    whole = math.sqrt(sum(count * variance for variance, (_, _, count) in zip(variances, releases, strict=True)))
    ratio = poisson_bound(releases, delta) / whole
    interval = INTERVAL_SHARE * math.sqrt(min(variances)) * max(1.0, ratio / NORMAL_RATIO)
    least, most = INTERVAL_EXPONENTS
    return 2.0 ** min(max(math.floor(math.log2(interval)), least), most)


@lru_cache(8)
def _poisson_loss(noise: float, probability: float, interval: float) -> Any:
    return _library().pld.from_gaussian_mechanism(
        noise, sampling_prob=probability, value_discretization_interval=interval
    )


def poisson_bound(releases: Releases, delta: float) -> float:
    """An upper bound on `poisson_epsilon`, by Rényi differential privacy.

    It is computed in a fraction of the time.
    """
    total = sum(count * _poisson_rdp(noise, probability) for noise, probability, count in releases)
    return float(_library().rdp.compute_epsilon(FAST_ORDERS, total, delta)[0])


def epsilon_of_divergences(orders: Sequence[float], divergences: np.ndarray, delta: float) -> float:
    """Epsilon of a mechanism with these Rényi divergences.

    Args:
        orders: orders of the divergences, > 1.
        divergences: upper bounds, of the same shape.
        delta: in (0, 1).
    """
    return float(_library().rdp.compute_epsilon(orders, np.maximum(divergences, LEAST_DIVERGENCE), delta)[0])


@lru_cache(1024)
def _poisson_rdp(noise: float, probability: float) -> np.ndarray:
    """Rényi divergence of one Poisson-sampled release at each of `FAST_ORDERS`."""
    library = _library()
    accountant = library.rdp.RdpAccountant(FAST_ORDERS)
    accountant.compose(library.events.PoissonSampledDpEvent(probability, library.events.GaussianDpEvent(noise)))
    return np.maximum(accountant.rdp, LEAST_DIVERGENCE)


def fixed_epsilon(
    releases: tuple[tuple[float, int], ...], size: int, clients: int, delta: float, *, is_fast: bool = False
) -> float:
    """Epsilon with cohorts of fixed size, replace-one, by Rényi divergences.

    Cohorts are drawn without replacement.

    Args:
        releases: noise multiplier > 0 and number >= 1 of each kind, at least one kind.
        size: clients in a cohort, in 1 to `clients`.
        clients: clients in the federation.
        delta: in (0, 1).
        is_fast: True for an upper bound from fewer orders, in a fraction of the time.
    """
    rdp = _library().rdp
    orders = FAST_ORDERS if is_fast else tuple(rdp.RdpAccountant().orders.tolist())
    total = sum(count * _fixed_rdp(noise, size, clients, orders) for noise, count in releases)
    return float(rdp.compute_epsilon(orders, total, delta)[0])


@lru_cache(64)
def _fixed_rdp(noise: float, size: int, clients: int, orders: tuple[float, ...]) -> np.ndarray:
    """Rényi divergence at each order of one release.

    A client that is replaced by another moves the sum by up to twice its norm.
    """
    return np.maximum(_without_replacement(noise / replacement_factor(), size, clients, orders), LEAST_DIVERGENCE)


def _without_replacement(noise: float, size: int, clients: int, orders: tuple[float, ...]) -> np.ndarray:
    library = _library()
    accountant = library.rdp.RdpAccountant(orders, library.relation.REPLACE_ONE)
    event = library.events.GaussianDpEvent(noise)
    accountant.compose(library.events.SampledWithoutReplacementDpEvent(clients, size, event))
    return accountant.rdp


@cache
def replacement_factor() -> float:
    """Divisor of a noise multiplier for `RdpAccountant` under replace-one.

    dp-accounting documents a multiplier of the largest norm, and its RDP takes it as one of the sensitivity, which is twice
    that: https://github.com/google/differential-privacy/issues/378. So the factor is 2, and 1 once the library is mended.

    Raises:
        RuntimeError: if the library computes neither.
    """
    orders = (2.0, 8.0, 32.0)
    found = _without_replacement(1.0, 1, 1, orders)  # no subsampling: a Gaussian mechanism with sensitivity 2
    for divergence, factor in ((0.5, 2.0), (2.0, 1.0)):
        if np.allclose(found, divergence * np.asarray(orders), rtol=1e-9):
            return factor
    message = (
        "dp-accounting's RDP of a Gaussian mechanism under replace-one is neither that of norm 1 nor that of norm 2"
    )
    raise RuntimeError(f"{message}: epsilon would be wrong; use dp-accounting 0.6")
