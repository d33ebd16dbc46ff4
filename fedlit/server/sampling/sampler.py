"""The joint for client selection: samplers draw cohorts from a pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.core.facts import UNKNOWN_SAMPLING, FederationFacts, Sampling
from fedlit.core.streams import Purpose, stream


@dataclass(frozen=True)
class ClientPool:
    """The clients of a federation in one round, numbered from 0.

    Args:
        sizes: examples of each client, shape (clients,).
        round: the round, counted from 0.
        seed: the experiment's seed.
        losses: returns the mean training loss of the global model for each of some clients: ids of shape (n,) give float64 of
            shape (n,), with NaN for a client that failed. Each of them is sent the model, and its bytes are counted.
    """

    sizes: np.ndarray
    round: int
    seed: int
    losses: Callable[[np.ndarray], np.ndarray]

    def __len__(self) -> int:
        return len(self.sizes)

    def stream(self, key: int, number: int = 0) -> np.random.Generator:
        """A generator for the sampler itself, the same in every round.

        Args:
            key: purpose of the numbers, >= 1.
            number: number of the generator among those of one purpose, >= 0.

        Raises:
            ValueError: if the key is 0, the key of the rounds' own generators.
        """
        if key < 1:
            raise ValueError(f"key={key} must be at least 1: the rounds' own generators have key 0")
        return stream(self.seed, Purpose.COHORT, number, key=key)


class Sampler(ABC):
    """Selection of each round's cohort. `__call__` is abstract; the rest has defaults.

    Attributes:
        weighted_by_examples: True if clients with more examples are more likely to be drawn.
    """

    weighted_by_examples: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Name of the sampler in error messages; by default its class's."""
        return type(self).__name__

    @abstractmethod
    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Draw distinct ids out of range(len(pool)), in any order, possibly none.

        Args:
            pool: the clients.
            generator: the round's own generator.
        """

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    def metrics(self, pool: ClientPool) -> Mapping[str, float]:
        """Figures for the round's record; none by default."""
        return {}

    def max_cohort(self, clients: int) -> int | None:
        """Size of the largest possible cohort; None, the default, is the schedule's."""
        return None

    def sampling(self, clients: int) -> Sampling:
        """Facts about the cohorts of a federation, for a privacy accountant.

        By default nothing is known, and a run with differential privacy refuses the sampler.

        Args:
            clients: number of clients in the federation.
        """
        return UNKNOWN_SAMPLING


@dataclass(frozen=True)
class FunctionSampler(Sampler):
    """A plain function as a sampler."""

    function: Callable[[ClientPool, np.random.Generator], np.ndarray]

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Call the function."""
        return self.function(pool, generator)


def as_sampler(value: Any) -> Sampler:
    """A sampler, or a plain function as one.

    Raises:
        ConfigError: if the value cannot be called.
    """
    if isinstance(value, Sampler):
        return value
    if not callable(value):
        hint = "make a function of (pool, generator) that returns ids, or subclass fedlit.Sampler"
        raise ConfigError("sampler", type(value).__name__, "is not a sampler", hint)
    return FunctionSampler(value)  # type: ignore[arg-type]
