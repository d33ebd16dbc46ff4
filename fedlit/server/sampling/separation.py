"""Sampling with a minimum separation between the rounds of a client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedlit.core.errors import ConfigError, raise_errors, require_at_least
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.server.sampling.sampler import ClientPool, Sampler

GROUPS_KEY = 3
"""Key of the stream from which the groups of `MinSeparation` are drawn."""


@dataclass(frozen=True)
class MinSeparation(Sampler):
    """Uniform sampling without replacement from groups of clients that take turns.

    The clients are divided once into `separation` groups of equal size, up to one client. Round t, counted from 0, draws from
    group t modulo `separation`. So the numbers of two rounds of a client differ by a multiple of `separation`, and a cohort
    has a fixed size.

    Choquette-Choo et al., NeurIPS 2023, https://arxiv.org/abs/2306.08153, have the same groups.

    Args:
        size: clients in a cohort, >= 1.
        separation: number of groups, >= 1; None for the largest number of groups with `size` clients.
    """

    size: int
    separation: int | None = None

    def __post_init__(self) -> None:
        raise_errors(None if self.separation is None else require_at_least("separation", self.separation))

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Draw `size` distinct ids of the round's group."""
        groups = self._num_groups(len(pool))
        group = pool.stream(GROUPS_KEY).permutation(len(pool))[pool.round % groups :: groups]
        return generator.choice(group, self.size, replace=False)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield an error if a group has fewer clients than a cohort."""
        clients = len(facts.sizes)
        if self.separation is not None and clients // self.separation < self.size:
            problem = f"leaves {clients // self.separation} clients in a group, and a cohort has {self.size}"
            hint = f"take at most {max(1, clients // self.size)}, or fewer clients a round"
            yield ConfigError("sampler.separation", self.separation, problem, hint)

    def sampling(self, clients: int) -> Sampling:
        """A fixed number of clients, with the rounds of a client apart."""
        return Sampling("separated", size=self.size, separation=self._num_groups(clients))

    def _num_groups(self, clients: int) -> int:
        return max(1, clients // self.size) if self.separation is None else self.separation
