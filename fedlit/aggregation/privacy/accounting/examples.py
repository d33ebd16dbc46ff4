"""Epsilon of the examples of clients that train by DP-SGD.

Each client has its own epsilon: it protects one example of that client. Examples of different clients are disjoint, so the
epsilons are not added.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, https://arxiv.org/abs/1607.00133
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from fedlit.aggregation.privacy.accounting.library import poisson_epsilon
from fedlit.core.errors import raise_errors, require

QUANTILES = {"lowest_tenth": 0.1, "median": 0.5, "highest_tenth": 0.9}
"""Quantiles over clients."""


def example_epsilon(history: Iterable[tuple[float, float, float]], delta: float) -> float:
    """Epsilon of a client's examples after its optimizer steps, add-or-remove, by PLD.

    Args:
        history: noise multiplier >= 0, sampling rate in (0, 1] and number of steps of each kind of step, in any order: the
            `history` of an accountant of Opacus. Steps with an empty batch count.
        delta: in (0, 1).

    Returns:
        Epsilon in nats; 0 without a step, infinity if a step has no noise.

    Raises:
        ConfigError: if delta or a sampling rate is outside of its range.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for noise, rate, count in history:
        raise_errors(require(0 < rate <= 1, "sample_rate", rate, "must be greater than 0 and at most 1"))
        steps[float(noise), float(rate)] += int(count)
    raise_errors(require(0 < delta < 1, "delta", delta, "must be between 0 and 1"))
    kinds = tuple(sorted((*kind, count) for kind, count in steps.items() if count))
    if not kinds:
        return 0.0
    return math.inf if kinds[0][0] <= 0 else poisson_epsilon(kinds, delta)


def epsilon_quantiles(epsilons: Collection[float]) -> dict[str, float]:
    """The largest epsilon of some clients, and quantiles over the clients.

    Args:
        epsilons: epsilon of each client, at least one.

    Returns:
        `privacy/epsilon`, which holds for every client, and `privacy/epsilon_median` and the like. A quantile is the epsilon of
        one of the clients.
    """
    values = np.sort(np.fromiter(epsilons, dtype=np.float64))
    ranks = {name: math.ceil(share * len(values)) - 1 for name, share in QUANTILES.items()}
    quantiles = {f"privacy/epsilon_{name}": float(values[max(0, rank)]) for name, rank in ranks.items()}
    return {"privacy/epsilon": float(values[-1]), **quantiles}
