"""Sampling among clients that are available at some hours of their day.

Most phones train at night, while they charge.

Eichner, Koren, McMahan, Srebro, Talwar, "Semi-Cyclic Stochastic Gradient Descent", ICML 2019, https://arxiv.org/abs/1904.10120,
study cyclic availability. The times of availability here are drawn, not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedlit.core.errors import raise_errors, require, require_at_least
from fedlit.core.facts import Sampling
from fedlit.server.sampling.sampler import ClientPool, Sampler

ZONE_KEY = 2
"""Key of the stream from which time zones are drawn."""


@dataclass(frozen=True)
class Available(Sampler):
    """Uniform sampling without replacement among the clients that are awake.

    If fewer than `size` are awake, the cohort is all of them. If none is awake, the round is lost. A client is awake in the
    first part of its day, and its day begins at its own time zone, which is drawn once.

    Args:
        size: clients in a cohort, >= 1.
        period: rounds in a day, >= 1.
        awake: share of its day in which a client is awake, in (0, 1].
        spread: share of the day over which time zones are spread, in [0, 1]: with 1 about the same number of clients is awake
            in every round, with 0 all are awake in the same rounds.
    """

    size: int
    period: int = 24
    awake: float = 0.5
    spread: float = 1.0

    def __post_init__(self) -> None:
        awake, spread = self.awake, self.spread
        awake_problem, awake_hint = "must be greater than 0 and at most 1", "with 1 all clients are always awake"
        spread_hint = "1 spreads the time zones over the whole day"
        raise_errors(
            require_at_least("period", self.period),
            require(0 < awake <= 1, "awake", awake, awake_problem, awake_hint),
            require(0 <= spread <= 1, "spread", spread, "must be at least 0 and at most 1", spread_hint),
        )

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Draw at most `size` distinct ids of clients that are awake."""
        ids = np.flatnonzero(self.is_awake(pool))
        return ids if len(ids) <= self.size else generator.choice(ids, self.size, replace=False)

    def metrics(self, pool: ClientPool) -> Mapping[str, float]:
        """The number of clients that are awake."""
        return {"clients/available": int(self.is_awake(pool).sum())}

    def sampling(self, clients: int) -> Sampling:
        """Cohorts that follow the clients' days."""
        return Sampling("other")

    def is_awake(self, pool: ClientPool) -> np.ndarray:
        """True for each client that is awake in the round, shape (clients,)."""
        zones = self.spread * pool.stream(ZONE_KEY).random(len(pool))
        return (pool.round % self.period / self.period + zones) % 1.0 < self.awake
