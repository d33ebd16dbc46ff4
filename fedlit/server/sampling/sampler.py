"""The clients that a round's cohort is drawn from, as a sampler sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedlit.core.streams import Purpose, stream


@dataclass(frozen=True)
class ClientPool:
    """The clients, numbered from 0, in one round.

    Args:
        sizes: samples of each client, shape (clients,).
        round: counted from 0.
        seed: of the experiment.
        losses: asks clients, ids of shape (n,), for the mean training loss of the global model on their samples: float64 of
            shape (n,), NaN for those who failed to answer. Each is sent the model, which is counted.
    """

    sizes: np.ndarray
    round: int
    seed: int
    losses: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.sizes)

    def stream(self, key: int, number: int = 0) -> np.random.Generator:
        """A generator of the sampler's own, the same in every round.

        Args:
            key: what it is for, >= 1.
            number: of those for the same, >= 0.

        Raises:
            ValueError: if the key is 0, which is that of the rounds' own generators.
        """
        if key < 1:
            raise ValueError(f"key {key} must be at least 1: 0 is the key of the rounds' own generators")
        return stream(self.seed, Purpose.COHORT, number, key=key)


class Sampler(Protocol):
    """Who takes part in a round.

    It may have more: `check(facts)`, its rules about other parts; `metrics(pool)`, figures for the record; `most(clients)`, how
    large a cohort can be where that is not the schedule's size; and `by_examples`, true if it is likelier to draw clients that
    have more examples.
    """

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Different ids out of range(len(pool)), in any order, possibly none; `generator` is the round's own."""
        ...
