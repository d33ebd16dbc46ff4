"""Which client owns each sample. A partitioner is a pure function of (samples, generator) that names an owner for every
sample, so that no sample can be lost or owned twice.

NIID-Bench is Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022,
https://arxiv.org/abs/2102.02079.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least, require_choice
from fedlit.data.dirichlet import (
    allocate,
    apportion,
    assign_classes,
    check_dirichlet_args,
    classes_of,
    dirichlet,
    ensure_min_samples,
    labels_of,
)
from fedlit.data.population import Population
from fedlit.data.protocols import Samples


@dataclass(frozen=True)
class Iid:
    """Samples at random, shares that differ by one sample at most.

    Args:
        num_clients: number of clients, >= 1.
    """

    num_clients: int

    def __post_init__(self) -> None:
        raise_errors(require_at_least("num_clients", self.num_clients))

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        return Population.of(generator.permutation(np.arange(len(samples)) % self.num_clients), self.num_clients)


@dataclass(frozen=True)
class Dirichlet:
    """Each class is dealt to the clients in shares drawn from a symmetric Dirichlet distribution.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
    https://arxiv.org/abs/1909.06335, made the distribution usual; shares over clients for each class are those of Yurochkin
    et al., ICML 2019, https://arxiv.org/abs/1905.12022. A client may end with few samples, or none.

    The literature has two rules under this name. `balanced` is that of the code of FedMA and NIID-Bench: classes are dealt
    in their order, and a client that already has its n / num_clients samples gets no more, so the later classes go to fewer
    clients and sizes are more even. With 10 equal classes, 10 clients and alpha 0.5 the expected sum of a class's squared
    shares is 0.25 without it and 0.28 with it, that of the clients' squared shares of all samples 0.115 and 0.106.

    Args:
        num_clients: number of clients, >= 1.
        alpha: concentration, > 0: small is uneven, large is nearly IID.
        balanced: deal a class to those clients only that have less than n / num_clients samples.
        min_samples: each client gets as many at least, moved from the largest, >= 0.
        bins: quantile bins that are the classes where labels are floating point, >= 1.
    """

    num_clients: int
    alpha: float
    balanced: bool = False
    min_samples: int = 0
    bins: int = 10

    def __post_init__(self) -> None:
        raise_errors(
            *check_dirichlet_args(self.num_clients, self.alpha, self.min_samples), require_at_least("bins", self.bins)
        )

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        owner, takers = np.empty(len(samples), dtype=np.int64), np.arange(self.num_clients)
        sizes = np.zeros(self.num_clients, dtype=np.int64)
        for members in classes_of(samples, "dirichlet", self.bins):
            if self.balanced:  # some are: not all clients are full while there are samples left
                takers = np.flatnonzero(sizes * self.num_clients < len(samples))
            # Dirichlet shares of some clients, normalised, are Dirichlet themselves: no need to draw those of the full
            counts = apportion(dirichlet(self.alpha, len(takers), generator), len(members))
            owner[generator.permutation(members)] = np.repeat(takers, counts)
            sizes[takers] += counts
        return ensure_min_samples(owner, self.num_clients, self.min_samples, generator)


@dataclass(frozen=True)
class DirichletClient:
    """Each client draws its samples by a mix of classes of its own, which is Dirichlet; clients are of equal size.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
    https://arxiv.org/abs/1909.06335. Samples are drawn without replacement, one client after another, from the classes that
    have some left: all are used, and the last clients take what the others left.

    Args:
        num_clients: number of clients, >= 1.
        alpha: concentration, > 0: small is one class a client, large is nearly IID.
        concentration: `class`: alpha is each class's, the mix is Dirichlet(alpha, ..., alpha); `total`: alpha is the sum
            over classes, the mix is Dirichlet(alpha * the classes' shares of all samples), as Hsu et al. write it. With 10
            classes of equal size `total` 5 is `class` 0.5.
        min_samples: each client has as many at least, >= 0; sizes are equal, so it is only checked.
    """

    num_clients: int
    alpha: float
    concentration: Literal["class", "total"] = "class"
    min_samples: int = 0

    def __post_init__(self) -> None:
        raise_errors(
            *check_dirichlet_args(self.num_clients, self.alpha, self.min_samples),
            require_choice("concentration", self.concentration, ("class", "total")),
        )

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        classes, clients = classes_of(samples, "dirichlet_client"), np.arange(self.num_clients)
        stock = np.array([len(members) for members in classes])
        alpha = self.alpha * (stock / stock.sum() if self.concentration == "total" else np.ones(len(stock)))
        sizes = len(samples) // self.num_clients + (clients < len(samples) % self.num_clients)
        owner = np.empty(len(samples), dtype=np.int64)
        for members, dealt in zip(classes, allocate(alpha, sizes, stock, generator).T, strict=True):
            owner[generator.permutation(members)] = np.repeat(clients, dealt)
        return ensure_min_samples(owner, self.num_clients, self.min_samples, generator)


@dataclass(frozen=True)
class Shards:
    """Samples sorted by label are cut into shards of equal size, which are dealt at random.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, section 3,
    https://arxiv.org/abs/1602.05629: 200 shards of MNIST, 2 a client. Samples of one label stay in the data's order.

    Args:
        num_clients: number of clients, >= 1.
        shards_per_client: >= 1; with as many classes or more, about the most classes a client has.
    """

    num_clients: int
    shards_per_client: int = 2

    def __post_init__(self) -> None:
        raise_errors(
            require_at_least("num_clients", self.num_clients),
            require_at_least("shards_per_client", self.shards_per_client),
        )

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        order = np.argsort(labels_of(samples, "shards"), kind="stable")
        dealt = generator.permutation(np.repeat(np.arange(self.num_clients), self.shards_per_client))
        if len(dealt) > len(order):
            most = f"makes {len(dealt)} shards of {len(order)} samples, and a shard needs one"
            raise ConfigError("shards_per_client", self.shards_per_client, most, "take fewer, or fewer clients")
        owner = np.empty(len(order), dtype=np.int64)
        owner[order] = dealt[np.arange(len(order)) * len(dealt) // len(order)]
        return Population.of(owner, self.num_clients)


@dataclass(frozen=True)
class Classes:
    """Each client has samples of a given number of classes; a class is divided evenly among the clients that have it.

    #C = k of NIID-Bench: client i has class i mod the number of classes, the others are drawn. Where there are fewer
    clients than classes, the classes left over are dealt in the same way first, so that all have an owner.

    Args:
        num_clients: number of clients, >= 1.
        classes_per_client: >= 1; a client has fewer only where a class has fewer samples than owners.
    """

    num_clients: int
    classes_per_client: int = 2

    def __post_init__(self) -> None:
        raise_errors(
            require_at_least("num_clients", self.num_clients),
            require_at_least("classes_per_client", self.classes_per_client),
        )

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        classes, owner = classes_of(samples, "classes"), np.empty(len(samples), dtype=np.int64)
        most, least = len(classes), -(-len(classes) // self.num_clients)
        if not least <= self.classes_per_client <= most:
            allowed = f"must be {least} to {most} for {self.num_clients} clients to own {most} classes"
            raise ConfigError("classes_per_client", self.classes_per_client, allowed)
        holds = assign_classes(self.num_clients, len(classes), self.classes_per_client, generator)
        for members, holders in zip(classes, holds.T, strict=True):
            owners = generator.permutation(np.flatnonzero(holders))
            owner[generator.permutation(members)] = owners[np.arange(len(members)) % len(owners)]
        return Population.of(owner, self.num_clients)


@dataclass(frozen=True)
class Quantity:
    """Samples at random, sizes drawn from a symmetric Dirichlet distribution: NIID-Bench's quantity skew.

    Args:
        num_clients: number of clients, >= 1.
        alpha: concentration, > 0: small is uneven, large is nearly equal.
        min_samples: each client gets as many at least, moved from the largest, >= 0.
    """

    num_clients: int
    alpha: float
    min_samples: int = 0

    def __post_init__(self) -> None:
        raise_errors(*check_dirichlet_args(self.num_clients, self.alpha, self.min_samples))

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        sizes = apportion(dirichlet(self.alpha, self.num_clients, generator), len(samples))
        owner = generator.permutation(np.repeat(np.arange(self.num_clients), sizes))
        return ensure_min_samples(owner, self.num_clients, self.min_samples, generator)


@dataclass(frozen=True)
class Noise:
    """Samples at random, and Gaussian noise on the inputs, from none at the first client to the most at the last.

    Feature noise of NIID-Bench, as its code has it: the standard deviation is sigma * i / (num_clients - 1) for client i of
    0 to num_clients - 1. One client alone has none.

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

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        population = Iid(self.num_clients)(samples, generator)
        return replace(population, noise=self.sigma * np.arange(self.num_clients) / max(1, self.num_clients - 1))


@dataclass(frozen=True)
class Natural:
    """The clients that the data itself names: hospitals, speakers, writers."""

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards."""
        population = samples.natural()
        if population is None:
            raise ConfigError(
                "", "natural", "needs data that says whose each sample is", "take partition=iid or dirichlet"
            )
        return population
