"""Who takes part in a round. A sampler draws from the generators that it is given alone, so a seed has the same cohorts with
every algorithm, wherever a run goes on, and when a round is run again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.server.sampling.sampler import ClientPool, Sampler

PASS = 1
"""Key of the streams from which the passes of `RoundRobin` are drawn."""

OFTEN = 0.01
"""Share of rounds that are lost for want of clients from which on it is told."""


@dataclass(frozen=True)
class Uniform(Sampler):
    """A cohort of fixed size, every one of the same probability: uniform sampling without replacement.

    Args:
        size: clients in a cohort, >= 1.
    """

    size: int

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """`size` different ids out of range(len(pool))."""
        return generator.choice(len(pool), self.size, replace=False)


@dataclass(frozen=True)
class Weighted(Sampler):
    """A cohort of fixed size, drawn one by one with probabilities proportional to examples among those who are left.

    McMahan et al., AISTATS 2017, draw uniformly and average by examples; the experiments of FedProx (Li et al., MLSys 2020)
    draw by examples and average uniformly: `algorithm.weights=uniform`. Doing both counts the examples twice. Without
    replacement a client of many examples is drawn less often than in proportion to them.

    Args:
        size: clients in a cohort, >= 1.
    """

    size: int
    weighted_by_examples: ClassVar[bool] = True

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """`size` different ids of clients that have samples."""
        return draw_by_examples(pool, self.size, generator)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """As many clients with samples as are drawn."""
        yield from check_cohort_size(facts, self.size)


@dataclass(frozen=True)
class RoundRobin(Sampler):
    """Every client once before any comes again: cohorts are taken in turn from passes over all clients, each in an order of
    its own. Where a cohort goes on into the next pass, that begins with clients that are not in the cohort.

    Args:
        size: clients in a cohort, >= 1.
    """

    size: int

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """`size` different ids; the passes are drawn from streams of their own, not from the round's."""
        number, begin = divmod(pool.round * self.size, len(pool))
        cohort = self._order(pool, number)[begin : begin + self.size]
        if len(cohort) == self.size:
            return cohort
        return np.concatenate([cohort, self._order(pool, number + 1)[: self.size - len(cohort)]])

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """A warning where not all of those whose turn it is are waited for."""
        if facts.over_select > 1:
            why = "leaves clients out whose turn it was: they wait for the next pass"
            yield ConfigError("schedule.over_select", facts.over_select, why, "1 waits for all", warning=True)

    def _order(self, pool: ClientPool, number: int) -> np.ndarray:
        """The clients in the order of a pass. Its beginning depends on who ended the pass before, unless a cohort ended there
        too; that on one before only if a pass is less than two cohorts."""
        clients = len(pool)
        fresh = number - number % (self.size // math.gcd(self.size, clients))  # the last pass that begins with a cohort
        order = np.empty(0, dtype=np.int64)
        for turn in range(max(fresh, number - 1) if clients >= 2 * self.size else fresh, number + 1):
            drawn, before = pool.stream(PASS, turn).permutation(clients), turn * clients % self.size
            others = np.flatnonzero(~np.isin(drawn, order[len(order) - before :]))
            first = others[: self.size - before] if before else others[:0]
            order = np.concatenate([drawn[first], np.delete(drawn, first)])
        return order


@dataclass(frozen=True)
class Poisson(Sampler):
    """Each client takes part with probability q, whatever the others do, so a cohort has any size; a round without a client
    is lost. It is the sampling of McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language
    Models", ICLR 2018, https://arxiv.org/abs/1710.06963.

    Args:
        size: clients in a cohort on average, >= 1; used if q is None.
        q: in (0, 1]; None for size / clients.
    """

    size: int
    q: float | None = None

    def __post_init__(self) -> None:
        if self.q is not None and not 0 < self.q <= 1:
            raise ConfigError(
                "q", self.q, "must be above 0 and at most 1", "null takes the schedule's cohort / clients"
            )

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Different ids out of range(len(pool)), possibly none. How many is drawn first, which costs no draw a client."""
        count = generator.binomial(len(pool), self._probability(len(pool)))
        return generator.choice(len(pool), count, replace=False)

    def max_cohort(self, clients: int) -> int:
        """All of them."""
        return clients

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """A fixed number to finish first is of another sampling; a warning of rounds with too few clients."""
        if facts.over_select > 1:
            why = "has no meaning: a Poisson cohort has no size that more could be sampled than"
            yield ConfigError("schedule.over_select", facts.over_select, why, "take 1, or another sampler")
        q = self._probability(len(facts.sizes))
        if (short := _below(facts.quorum, len(facts.sizes), q)) >= OFTEN:
            why = (
                f"brings fewer clients than schedule.quorum={facts.quorum} in {short:.0%} of the rounds, which are lost"
            )
            yield ConfigError("sampler.q", self.q, why, f"is {q:.4g}: take more, or more clients a round", warning=True)

    def _probability(self, clients: int) -> float:
        return self.size / clients if self.q is None else self.q


def draw_by_examples(pool: ClientPool, size: int, generator: np.random.Generator) -> np.ndarray:
    """Different ids, drawn one by one with probabilities proportional to examples, shape (size,)."""
    return generator.choice(len(pool), size, replace=False, p=pool.sizes / pool.sizes.sum())


def check_cohort_size(facts: FederationFacts, size: int) -> Iterator[ConfigError]:
    """A mistake if fewer clients have samples than are drawn by examples."""
    some = int((facts.sizes > 0).sum())
    if some < size:
        why = f"draws {size} clients by their examples, and only {some} have any"
        yield ConfigError("sampler", "", why, "take fewer clients a round, or partition.min_samples=1")


def _below(count: int, clients: int, q: float) -> float:
    """Probability that fewer than `count` of the clients come, each with probability q."""
    if q == 1:
        return float(count > clients)
    of = math.lgamma(clients + 1)
    return sum(
        math.exp(
            of - math.lgamma(k + 1) - math.lgamma(clients - k + 1) + k * math.log(q) + (clients - k) * math.log1p(-q)
        )
        for k in range(min(count, clients + 1))
    )
