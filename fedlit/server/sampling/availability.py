"""Clients that are there at some hours of their day: most phones train at night, when they charge.

Cyclic availability is the setting of Eichner, Koren, McMahan, Srebro, Talwar, "Semi-Cyclic Stochastic Gradient Descent", ICML
2019, https://arxiv.org/abs/1904.10120; the traces here are drawn, not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.server.sampling.sampler import ClientPool, Sampler

ZONE = 2
"""Key of the stream from which time zones are drawn."""


@dataclass(frozen=True)
class Available(Sampler):
    """Uniform sampling without replacement among the clients that are awake: all of them where they are fewer than are asked
    for; with none the round is lost.

    A client is awake in the first `awake` of its day. Its day begins by a time zone of its own, drawn once.

    Args:
        size: clients in a cohort, >= 1.
        period: rounds in a day, >= 1.
        awake: share of its day in which a client is awake, in (0, 1].
        spread: share of the day over which time zones are spread, in [0, 1]: with 1 about as many are awake in every round,
            with 0 all at once.
    """

    size: int
    period: int = 24
    awake: float = 0.5
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ConfigError("period", self.period, "must be a whole number of at least 1")
        if not 0 < self.awake <= 1:
            raise ConfigError("awake", self.awake, "must be above 0 and at most 1", "1: everybody is always there")
        if not 0 <= self.spread <= 1:
            raise ConfigError("spread", self.spread, "must be from 0 to 1", "1 spreads time zones over the whole day")

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """At most `size` different ids of clients that are awake."""
        there = np.flatnonzero(self.there(pool))
        return there if len(there) <= self.size else generator.choice(there, self.size, replace=False)

    def metrics(self, pool: ClientPool) -> Mapping[str, float]:
        """How many are awake."""
        return {"clients/available": int(self.there(pool).sum())}

    def there(self, pool: ClientPool) -> np.ndarray:
        """Which clients are awake in the round, shape (clients,)."""
        zones = self.spread * pool.stream(ZONE).random(len(pool))
        return (pool.round % self.period / self.period + zones) % 1.0 < self.awake
