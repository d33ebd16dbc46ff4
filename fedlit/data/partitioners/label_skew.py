"""Partitioners by label, whose clients have different classes.

NIID-Bench is Li, Diao, Chen, He, "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022,
https://arxiv.org/abs/2102.02079.
"""

# ruff: noqa: D102  the base class documents the call
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, raise_errors, require_at_least, require_choice
from fedlit.data.partitioners.dirichlet import (
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
from fedlit.data.protocols import Partitioner, Samples


@dataclass(frozen=True)
class Dirichlet(Partitioner):
    """Each class divided among the clients in symmetric Dirichlet shares.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
    https://arxiv.org/abs/1909.06335, made the distribution usual. Shares over clients for each class are those of Yurochkin
    et al., ICML 2019, https://arxiv.org/abs/1905.12022. A client may get few samples, or none.
    The literature has two rules under this name. `balanced` is the rule in the code of FedMA and NIID-Bench: classes are
    divided in their order, and a client that already has n / num_clients samples gets no more. So fewer clients get the later
    classes, and sizes are more even. With 10 equal classes, 10 clients and alpha 0.5 the expected sum of a class's squared
    shares is 0.25 without `balanced` and 0.28 with it. That of the clients' squared shares of all samples is 0.115 and 0.106.

    Args:
        num_clients: number of clients, >= 1.
        alpha: concentration, > 0: small is uneven, large is nearly IID.
        balanced: True divides a class only among clients that have fewer than n / num_clients samples.
        min_samples: smallest number of samples of a client, >= 0; missing ones move from the largest clients.
        bins: number of quantile bins that serve as classes if labels are floating point, >= 1.
    """

    num_clients: int
    alpha: float
    balanced: bool = False
    min_samples: int = 0
    bins: int = 10

    def __post_init__(self) -> None:
        errors = check_dirichlet_args(self.num_clients, self.alpha, self.min_samples)
        raise_errors(*errors, require_at_least("bins", self.bins))

    @property
    def declared_clients(self) -> int:
        return self.num_clients

    @property
    def divides_classes(self) -> bool:
        return True

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        owner, takers = np.empty(len(samples), dtype=np.int64), np.arange(self.num_clients)
        sizes = np.zeros(self.num_clients, dtype=np.int64)
        for members in classes_of(samples, "dirichlet", self.bins):
            if self.balanced:  # never empty: while samples are left, some client is not full
                takers = np.flatnonzero(sizes * self.num_clients < len(samples))
            # normalised Dirichlet shares of some clients are Dirichlet themselves: full clients need no draw
            counts = apportion(dirichlet(self.alpha, len(takers), generator), len(members))
            owner[generator.permutation(members)] = np.repeat(takers, counts)
            sizes[takers] += counts
        return ensure_min_samples(owner, self.num_clients, self.min_samples, generator)


@dataclass(frozen=True)
class DirichletClient(Partitioner):
    """Clients of equal size, each with its own Dirichlet mix of classes.

    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
    https://arxiv.org/abs/1909.06335. Samples are drawn without replacement, one client after another, from the classes that
    have samples left. All samples are used, and the last clients take the rest.

    Args:
        num_clients: number of clients, >= 1.
        alpha: concentration, > 0: small is one class a client, large is nearly IID.
        concentration: `class`: alpha is that of each class, the mix is Dirichlet(alpha, ..., alpha); `total`: alpha is the
            sum over classes, the mix is Dirichlet(alpha * the classes' shares of all samples), as in Hsu et al. With 10
            classes of equal size `total` 5 is `class` 0.5.
        min_samples: smallest number of samples of a client, >= 0; it is only checked, since sizes are equal.
    """

    num_clients: int
    alpha: float
    concentration: Literal["class", "total"] = "class"
    min_samples: int = 0

    def __post_init__(self) -> None:
        errors = check_dirichlet_args(self.num_clients, self.alpha, self.min_samples)
        raise_errors(*errors, require_choice("concentration", self.concentration, ("class", "total")))

    @property
    def declared_clients(self) -> int:
        return self.num_clients

    @property
    def divides_classes(self) -> bool:
        return True

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        classes, clients = classes_of(samples, "dirichlet_client"), np.arange(self.num_clients)
        stock = np.array([len(members) for members in classes])
        alpha = self.alpha * (stock / stock.sum() if self.concentration == "total" else np.ones(len(stock)))
        sizes = len(samples) // self.num_clients + (clients < len(samples) % self.num_clients)
        owner = np.empty(len(samples), dtype=np.int64)
        for members, counts in zip(classes, allocate(alpha, sizes, stock, generator).T, strict=True):
            owner[generator.permutation(members)] = np.repeat(clients, counts)
        return ensure_min_samples(owner, self.num_clients, self.min_samples, generator)


@dataclass(frozen=True)
class Shards(Partitioner):
    """Equal shards of the samples sorted by label, for random clients.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, section 3,
    https://arxiv.org/abs/1602.05629: 200 shards of MNIST, 2 a client. Samples of one label stay in the data's order.

    Args:
        num_clients: number of clients, >= 1.
        shards_per_client: number of shards of a client, >= 1; about the largest number of classes that a client can have.
    """

    num_clients: int
    shards_per_client: int = 2

    def __post_init__(self) -> None:
        raise_errors(
            require_at_least("num_clients", self.num_clients),
            require_at_least("shards_per_client", self.shards_per_client),
        )

    @property
    def declared_clients(self) -> int:
        return self.num_clients

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        order = np.argsort(labels_of(samples, "shards"), kind="stable")
        shard_owner = generator.permutation(np.repeat(np.arange(self.num_clients), self.shards_per_client))
        if len(shard_owner) > len(order):
            why = f"makes {len(shard_owner)} shards of {len(order)} samples, and a shard needs one"
            raise ConfigError("shards_per_client", self.shards_per_client, why, "use fewer shards or fewer clients")
        owner = np.empty(len(order), dtype=np.int64)
        owner[order] = shard_owner[np.arange(len(order)) * len(shard_owner) // len(order)]
        return Population.of(owner, self.num_clients)


@dataclass(frozen=True)
class Classes(Partitioner):
    """A fixed number of classes for each client.

    #C = k of NIID-Bench: client i has class i mod the number of classes, the others are drawn. The owners of a class share it
    evenly. With fewer clients than classes, the remaining classes are assigned first, so that every class has an owner.

    Args:
        num_clients: number of clients, >= 1.
        classes_per_client: number of classes of a client, >= 1; fewer only if a class has fewer samples than owners.
    """

    num_clients: int
    classes_per_client: int = 2

    def __post_init__(self) -> None:
        raise_errors(
            require_at_least("num_clients", self.num_clients),
            require_at_least("classes_per_client", self.classes_per_client),
        )

    @property
    def declared_clients(self) -> int:
        return self.num_clients

    @property
    def divides_classes(self) -> bool:
        return True

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        classes, owner = classes_of(samples, "classes"), np.empty(len(samples), dtype=np.int64)
        largest, smallest = len(classes), -(-len(classes) // self.num_clients)
        if not smallest <= self.classes_per_client <= largest:
            why = f"must be {smallest} to {largest} for {self.num_clients} clients to own {largest} classes"
            raise ConfigError("classes_per_client", self.classes_per_client, why)
        is_owner = assign_classes(self.num_clients, len(classes), self.classes_per_client, generator)
        for members, column in zip(classes, is_owner.T, strict=True):
            owners = generator.permutation(np.flatnonzero(column))
            owner[generator.permutation(members)] = owners[np.arange(len(members)) % len(owners)]
        return Population.of(owner, self.num_clients)
