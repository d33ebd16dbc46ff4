"""Facts about a federation.

The parts of the federation need the facts to check themselves against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Weighting = Literal["equal", "examples", "losses", "steps", "unknown"]
"""The kind of the clients' weights: see `Algorithm.weighting`."""


@dataclass(frozen=True)
class Sampling:
    """The choice of cohorts: the facts for a privacy accountant.

    Args:
        kind: `poisson`: each client independently, with one probability. `fixed`: a fixed number of clients, uniformly without
            replacement. `every`: every client in every round. `separated`: at least `separation` rounds lie between the
            rounds of one client. `other`: anything else, so that nothing is known about the cohorts.
        probability: probability that a client is in a cohort, in (0, 1]; None if it differs between clients or is unknown.
        size: clients in a cohort, >= 1; None if it varies.
        separation: smallest difference of the numbers of two rounds that have a client in common, >= 1.
        by_loss: True if cohorts may depend on what clients return, such as their losses.
    """

    kind: Literal["poisson", "fixed", "every", "separated", "other"] = "other"
    probability: float | None = None
    size: int | None = None
    separation: int | None = None
    by_loss: bool = False

    def prob_below(self, count: int, clients: int) -> float:
        """Probability of a cohort of fewer clients than `count` by Poisson sampling.

        It is 0 for other sampling.

        Args:
            count: number of clients.
            clients: number of clients in the federation.
        """
        q = self.probability
        if self.kind != "poisson" or q is None:
            return 0.0
        if q == 1:
            return float(count > clients)
        of = math.lgamma(clients + 1)
        return sum(
            math.exp(
                of
                - math.lgamma(k + 1)
                - math.lgamma(clients - k + 1)
                + k * math.log(q)
                + (clients - k) * math.log1p(-q)
            )
            for k in range(min(count, clients + 1))
        )


LOST_SHARE = 0.01
"""Smallest share of rounds with too few clients that is a warning."""


@dataclass(frozen=True)
class SecureSumFacts:
    """The groups of a secure sum that takes noise of its clients.

    Args:
        ring: sums are modulo 2^ring.
        survivors: smallest number of updates in the sum of a group; with fewer it is not opened.
        largest: clients of the largest group.
        has_noise: whether a privacy mechanism makes the grid of its integers.
    """

    ring: int
    survivors: int
    largest: int
    has_noise: bool = False


UNKNOWN_SAMPLING = Sampling(by_loss=True)
"""The sampling of which nothing is known; a cohort may depend on anything."""


@dataclass(frozen=True, kw_only=True)
class FederationFacts:
    """A federation in figures.

    Args:
        sizes: examples of each client, shape (clients,).
        cohort_size: clients in a round.
        splits: splits that the server evaluates.
        has_client_tests: whether clients have test sets of their own.
        classes: names of the classes; empty where labels are not classes.
        val_counts: validation examples of each class, shape (classes,); None where unknown.
        has_clock: whether a clock times the clients.
        rounds: rounds of the run.
        has_worker_processes: whether clients may train in worker processes.
        timeout_s: seconds after which a hanging worker process is replaced; None for never.
        over_select: factor by which more clients are sampled than a cohort has.
        quorum: updates that a round needs.
        max_norm: norm above which an update is refused; None for any norm.
        max_cohort: size of the largest possible cohort; None for `cohort_size`.
        sampling: how cohorts are chosen, with over-selection.
        algorithm: class name of the algorithm.
        weighting: the kind of the clients' weights: see `Algorithm.weighting`.
        update_numbers: numbers in each group of an update, such as parameters and buffers; empty for a channel without stages.
        integer_buffers: names of the integer buffers in an update; empty for a channel without stages.
        keeps_messages: whether the aggregator keeps every update of a round.
        releases_empty: whether the server also steps in a round without any update.
        exchanges: names of a round's exchanges between the server and a client, in their order.
        has_common_key: whether workers share a key that the server's process does not read.
        module: class name of the LightningModule.
        manual_optimization: whether the module steps its optimizers itself.
        secure_sum: the groups of a secure sum; None without one that takes noise of its clients.
    """

    sizes: np.ndarray
    cohort_size: int
    splits: tuple[str, ...]
    has_client_tests: bool
    classes: tuple[str, ...] = ()
    val_counts: np.ndarray | None = None
    has_clock: bool = False
    rounds: int = 1
    has_worker_processes: bool = False
    timeout_s: float | None = None
    over_select: float = 1.0
    quorum: int = 1
    max_norm: float | None = None
    max_cohort: int | None = None
    sampling: Sampling = UNKNOWN_SAMPLING
    algorithm: str = ""
    weighting: Weighting = "unknown"
    update_numbers: Mapping[str, int] = field(default_factory=dict)
    integer_buffers: tuple[str, ...] = ()
    keeps_messages: bool = False
    releases_empty: bool = False
    exchanges: tuple[str, ...] = ("update",)
    has_common_key: bool = True
    module: str = ""
    manual_optimization: bool = False
    secure_sum: SecureSumFacts | None = None
