"""Partitioners of random samples, whatever their labels: IID, quantity skew, feature skew.

NIID-Bench is Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022,
https://arxiv.org/abs/2102.02079.
"""

# ruff: noqa: D102  the base class documents the call
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedlit.core.errors import raise_errors, require, require_at_least
from fedlit.data.partitioners.dirichlet import apportion, check_dirichlet_args, dirichlet, ensure_min_samples
from fedlit.data.population import Population
from fedlit.data.protocols import Partitioner, Samples


@dataclass(frozen=True)
class Iid(Partitioner):
    """Random samples in shards of equal size, up to one sample.

    Args:
        num_clients: number of clients, >= 1.
    """

    num_clients: int

    def __post_init__(self) -> None:
        raise_errors(require_at_least("num_clients", self.num_clients))

    @property
    def declared_clients(self) -> int:
        return self.num_clients

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        return Population.of(generator.permutation(np.arange(len(samples)) % self.num_clients), self.num_clients)


@dataclass(frozen=True)
class Quantity(Partitioner):
    """Random samples in shards of symmetric Dirichlet sizes: NIID-Bench's quantity skew.

    Args:
        num_clients: number of clients, >= 1.
        alpha: concentration, > 0: small is uneven, large is nearly equal.
        min_samples: smallest number of samples of a client, >= 0; missing ones move from the largest clients.
    """

    num_clients: int
    alpha: float
    min_samples: int = 0

    def __post_init__(self) -> None:
        raise_errors(*check_dirichlet_args(self.num_clients, self.alpha, self.min_samples))

    @property
    def declared_clients(self) -> int:
        return self.num_clients

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        sizes = apportion(dirichlet(self.alpha, self.num_clients, generator), len(samples))
        owner = generator.permutation(np.repeat(np.arange(self.num_clients), sizes))
        return ensure_min_samples(owner, self.num_clients, self.min_samples, generator)


@dataclass(frozen=True)
class Noise(Partitioner):
    """Random samples, with Gaussian noise on the inputs that grows by client.

    Feature noise of NIID-Bench, as in its code: the standard deviation of client i is sigma * i / (num_clients - 1), from 0 at
    the first client to sigma at the last. A single client has no noise. It is added before a data module's hooks of batches.

    Args:
        num_clients: number of clients, >= 1.
        sigma: standard deviation of the last client's noise, in units of the prepared inputs, >= 0.
    """

    num_clients: int
    sigma: float

    def __post_init__(self) -> None:
        raise_errors(
            require_at_least("num_clients", self.num_clients),
            require(0 <= self.sigma < float("inf"), "sigma", self.sigma, "must be a number of at least 0"),
        )

    @property
    def declared_clients(self) -> int:
        return self.num_clients

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        population = Iid(self.num_clients)(samples, generator)
        return replace(population, noise=self.sigma * np.arange(self.num_clients) / max(1, self.num_clients - 1))
