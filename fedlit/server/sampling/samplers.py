"""Samplers that depend on sizes, round and seed only.

A sampler draws only from the generators that it is given. So a seed gives the same cohorts with every algorithm, after
a resume, and when a round is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.core.facts import LOST_SHARE, FederationFacts, Sampling
from fedlit.server.sampling.sampler import ClientPool, Sampler

PASS_KEY = 1
"""Key of the streams from which the passes of `RoundRobin` are drawn."""


@dataclass(frozen=True)
class Uniform(Sampler):
    """Uniform sampling without replacement; a cohort has a fixed size.

    Args:
        size: clients in a cohort, >= 1.
    """

    size: int

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Draw `size` distinct ids out of range(len(pool))."""
        return generator.choice(len(pool), self.size, replace=False)

    def sampling(self, clients: int) -> Sampling:
        """A fixed number of clients, or every client."""
        kind = "fixed" if self.size < clients else "every"
        return Sampling(kind, probability=self.size / clients, size=self.size)


@dataclass(frozen=True)
class Weighted(Sampler):
    """Sampling by examples without replacement: a cohort of fixed size.

    Clients are drawn one by one, with probabilities proportional to examples among the clients not yet drawn. So a client with
    many examples is drawn less often than in proportion to its examples.

    McMahan et al., AISTATS 2017, draw uniformly and average by examples. The experiments of FedProx (Li et al., MLSys 2020)
    draw by examples and average uniformly: `algorithm.weights=uniform`. Doing both counts the examples twice.

    Args:
        size: clients in a cohort, >= 1.
    """

    size: int
    weighted_by_examples: ClassVar[bool] = True

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Draw `size` distinct ids of clients that have examples."""
        return draw_by_examples(pool, self.size, generator)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield an error if too few clients have examples."""
        yield from check_cohort_size(facts, self.size)

    def sampling(self, clients: int) -> Sampling:
        """A fixed number of clients, each with its own probability."""
        return Sampling("other", size=self.size)


@dataclass(frozen=True)
class RoundRobin(Sampler):
    """Every client once before any client a second time.

    Cohorts are taken one after the other from passes over all clients. Each pass has its own random order. If a cohort reaches
    into the next pass, that pass begins with clients that are not in the cohort.

    Args:
        size: clients in a cohort, >= 1.
    """

    size: int

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Take `size` distinct ids from the passes, which have their own streams."""
        number, begin = divmod(pool.round * self.size, len(pool))
        cohort = self._order(pool, number)[begin : begin + self.size]
        if len(cohort) == self.size:
            return cohort
        return np.concatenate([cohort, self._order(pool, number + 1)[: self.size - len(cohort)]])

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield a warning for over-selection."""
        if facts.over_select > 1:
            problem = "leaves out clients of the cohort, and they do not train before the next pass"
            hint = "over_select=1 waits for the whole cohort"
            yield ConfigError("schedule.over_select", facts.over_select, problem, hint, warning=True)

    def sampling(self, clients: int) -> Sampling:
        """A fixed number of clients in each round, or every client.

        A client can be the last of one pass and the first of the next, so its rounds are not separated.
        """
        kind = "other" if self.size < clients else "every"
        return Sampling(kind, probability=self.size / clients, size=self.size)

    def _order(self, pool: ClientPool, number: int) -> np.ndarray:
        """The clients in the order of a pass.

        The beginning of a pass depends on the end of the pass before, unless a cohort ends there too. It depends on still
        earlier passes only if a pass has fewer clients than two cohorts.
        """
        clients = len(pool)
        start = number - number % (self.size // math.gcd(self.size, clients))  # the last pass that begins with a cohort
        order = np.empty(0, dtype=np.int64)
        for turn in range(max(start, number - 1) if clients >= 2 * self.size else start, number + 1):
            shuffled, before = pool.stream(PASS_KEY, turn).permutation(clients), turn * clients % self.size
            others = np.flatnonzero(~np.isin(shuffled, order[len(order) - before :]))
            first = others[: self.size - before] if before else others[:0]
            order = np.concatenate([shuffled[first], np.delete(shuffled, first)])
        return order


@dataclass(frozen=True)
class Poisson(Sampler):
    """Poisson sampling: each client is drawn independently with probability q.

    So a cohort has any size. A round without a client is lost, unless a privacy mechanism releases its noise.

    Source: McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
    https://arxiv.org/abs/1710.06963

    Args:
        size: clients in a cohort on average, >= 1; used if q is None.
        q: in (0, 1]; None for size / clients.
    """

    size: int
    q: float | None = None

    def __post_init__(self) -> None:
        if self.q is not None and not 0 < self.q <= 1:
            hint = "q=null is the schedule's cohort size divided by the number of clients"
            raise ConfigError("q", self.q, "must be greater than 0 and at most 1", hint)

    def __call__(self, pool: ClientPool, generator: np.random.Generator) -> np.ndarray:
        """Draw distinct ids out of range(len(pool)), possibly none."""
        # the count first, so that the draws do not grow with the number of clients
        count = generator.binomial(len(pool), self._probability(len(pool)))
        return generator.choice(len(pool), count, replace=False)

    def max_cohort(self, clients: int) -> int:
        """The number of all clients."""
        return clients

    def sampling(self, clients: int) -> Sampling:
        """Each client independently with probability q."""
        return Sampling("poisson", probability=self._probability(clients))

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield an error for over-selection, and a warning for too small cohorts."""
        if facts.over_select > 1:
            problem = "does not go together with sampler=poisson, whose cohorts have no fixed size"
            hint = "set schedule.over_select=1, or take another sampler"
            yield ConfigError("schedule.over_select", facts.over_select, problem, hint)
        q = self._probability(len(facts.sizes))
        if facts.releases_empty:
            return
        if (lost := self.sampling(len(facts.sizes)).prob_below(facts.quorum, len(facts.sizes))) >= LOST_SHARE:
            problem = (
                f"draws fewer clients than schedule.quorum={facts.quorum} in {lost:.0%} of the rounds, which are lost"
            )
            hint = f"the probability is {q:.4g}: take a larger q, or more clients a round"
            yield ConfigError("sampler.q", self.q, problem, hint, warning=True)

    def _probability(self, clients: int) -> float:
        return self.size / clients if self.q is None else self.q


def draw_by_examples(pool: ClientPool, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw distinct ids one by one, with probabilities proportional to examples.

    Returns:
        The ids, shape (size,).
    """
    return generator.choice(len(pool), size, replace=False, p=pool.sizes / pool.sizes.sum())


def check_cohort_size(facts: FederationFacts, size: int) -> Iterator[ConfigError]:
    """Yield an error if fewer than `size` clients have examples."""
    count = int((facts.sizes > 0).sum())
    if count < size:
        problem = f"draws {size} clients by their examples, and only {count} have any"
        yield ConfigError("sampler", "", problem, "take fewer clients a round, or partition.min_samples=1")
