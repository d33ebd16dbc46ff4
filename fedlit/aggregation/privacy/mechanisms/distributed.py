"""Distributed differential privacy: clients add Skellam noise inside a secure sum.

Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021,
https://arxiv.org/abs/2110.04995, with the rotation and the conditional rounding of Kairouz, Liu, Steinke, "The Distributed
Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation", ICML 2021, https://arxiv.org/abs/2102.06387.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.stage import Order, SumTicket, Ticket
from fedlit.aggregation.privacy.accounting import Accountant
from fedlit.aggregation.privacy.budget import (
    bound_accountant,
    budget_errors,
    calibrate_noise,
    check_budget,
    clip_error,
    default_delta,
    privacy_statement,
)
from fedlit.aggregation.privacy.ledger import count_participations
from fedlit.aggregation.privacy.mechanisms.local import PARTICIPATIONS, most_participations
from fedlit.aggregation.privacy.mechanisms.mechanism import PrivacyMechanism
from fedlit.aggregation.privacy.mechanisms.sum_noise import FIGURES, expected_cohort
from fedlit.aggregation.privacy.refusals import check_distributed
from fedlit.aggregation.privacy.skellam.grid import SkellamGrid
from fedlit.aggregation.privacy.skellam.plan import GridPlan
from fedlit.aggregation.privacy.skellam.rotation import rotate, rotated_size, unrotate
from fedlit.aggregation.privacy.vectors import clip_factor, exact_norm
from fedlit.core.errors import ConfigError, raise_errors, require_positive
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout, Tensors

COUNT_SHARE = 0.1
"""Length of the number that says whether an update was clipped, as a part of the clipping norm."""


@dataclass(frozen=True, kw_only=True)
class DistributedDP(PrivacyMechanism):
    """Clipping on the client, and noise of all clients together.

    The noise is added to the integers of a secure sum. The server sees the noisy sums of groups alone, so it need not be
    trusted. The noise is sized for the fewest clients whose sum is opened: a group of fewer is lost, and more add more noise.

    An update is clipped and rotated. One more number says whether the update was clipped: 0.1 or -0.1 times the clipping norm.
    The secure sum rounds all numbers to a grid, and adds the noise: see `SkellamGrid`. Each client is charged for the rounds in
    which it was asked to train, also for lost ones. The recorded epsilon is that of the client with the most rounds. Sampling
    does not amplify privacy, since the server sees who takes part.

    Args:
        clip: clipping norm, > 0.
        noise_multiplier: standard deviation of the noise on a sum / largest norm of a client's integers, >= 0; None to
            calibrate it to `epsilon`. That norm is about 1 % above the clipping norm.
        epsilon: privacy budget of a client that takes part in as many of the planned rounds as the sampler allows, > 0; None if
            the noise multiplier is given.
        delta: probability in (0, 1) with which epsilon may be exceeded; None for clients^(-1.1).
        granularity: distance of two points of the grid, > 0; None for clip / max(1024, 16 sqrt(d)) with d numbers.
        rotate: whether updates are rotated, which keeps sums of large cohorts in the ring and pads updates to a power of two.
        population: number of clients in the federation; `bind` sets it.
        expected: mean number of clients in a cohort; `bind` sets it.
        sum_grid: the grid of the secure sum; `bind` sets it.
    """

    order = Order.PROTECT

    clip: float = 1.0
    granularity: float | None = None
    rotate: bool = True
    expected: float | None = None
    sum_grid: SkellamGrid | None = None

    def __post_init__(self) -> None:
        errors = [] if self.population else budget_errors(self.noise_multiplier, self.epsilon, self.delta)
        granularity = None if self.granularity is None else require_positive("granularity", self.granularity)
        raise_errors(clip_error(self.clip), granularity, *errors)

    @property
    def makes_grid(self) -> bool:
        """True: the secure sum adds this noise."""
        return True

    @property
    def grid(self) -> SkellamGrid | None:
        """The grid of the secure sum; None before `bind`."""
        return self.sum_grid

    @property
    def denominator(self) -> float | None:
        """The expected cohort: a failed client counts as zeros."""
        return self.expected

    @property
    def accountant(self) -> Accountant | None:
        """The accountant of one client's participations; None before `bind`."""
        if self.grid is None or self.delta is None:
            return None
        multiplier = 1.0 if self.noise_multiplier is None else self.noise_multiplier
        figures = {"square": self.grid.square, "size": self.grid.size}
        return Accountant.distributed(noise_multiplier=multiplier, delta=self.delta, **figures)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors of settings under which the stated epsilon would be wrong."""
        yield from check_distributed(facts)
        yield from check_budget(self.noise_multiplier, self.epsilon, self.delta, len(facts.sizes))

    def bind(self, facts: FederationFacts) -> DistributedDP:
        """The mechanism for one federation, with its noise and its grid."""
        clients, plan = len(facts.sizes), self.plan(facts)
        delta = default_delta(clients) if self.delta is None else self.delta
        bound = replace(
            self, delta=delta, population=clients, expected=expected_cohort(facts), sum_grid=plan.grid(math.nan)
        )
        noise = self.noise_multiplier
        if noise is None:
            assert self.epsilon is not None
            noise = calibrate_noise(bound, self.epsilon, most_participations(facts.sampling, facts.rounds))
        grid = plan.grid(noise)
        raise_errors(*plan.errors(grid))
        return replace(bound, noise_multiplier=noise, sum_grid=grid)

    def plan(self, facts: FederationFacts) -> GridPlan:
        """The figures that decide the grid.

        Raises:
            ConfigError: if there is no secure sum.
        """
        raise_errors(*(error for error in check_distributed(facts) if error.key in ("encryption", "sampler")))
        assert facts.secure_sum is not None
        numbers = sum(facts.update_numbers.values())
        return GridPlan(
            norm=self.clip * math.hypot(1, COUNT_SHARE),
            size=1 + (rotated_size(numbers) if self.rotate else numbers),
            step=self.granularity or self.clip / max(1024.0, 16 * math.sqrt(numbers)),
            is_rotated=self.rotate,
            sums=facts.secure_sum,
        )

    def init(self, layout: Layout) -> StageState:
        """The number of messages of each client, and no figures yet."""
        counts = torch.zeros(self.population, dtype=torch.int64)
        return StageState(private={PARTICIPATIONS: counts, FIGURES: torch.full((2,), math.nan, dtype=torch.float64)})

    def encode(self, vector: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Clip and rotate the update; the secure sum adds the noise."""
        factor = clip_factor(vector, self.clip)
        exact = vector.double().mul_(factor).numpy()
        spread = rotate(exact, ticket.common_generator) if self.rotate else exact
        count = COUNT_SHARE * self.clip * (1 if factor < 1 else -1)
        return torch.from_numpy(np.append(spread, count).astype(np.float32)), {}

    def encoded_layout(self, layout: Layout) -> Layout:
        """Layout of the rotated update and the number about its clip."""
        size = rotated_size(layout.size) if self.rotate else layout.size
        return Layout((("rotated", self.name, (size + 1,)),))

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Undo the rotation, and charge the clients of the round."""
        spread, count = total[:-1].numpy(), float(total[-1])
        opened = unrotate(spread, ticket.common_generator, ticket.layout.size) if self.rotate else spread
        figures = torch.tensor(self._figures(total, count, ticket.updates), dtype=torch.float64)
        charged = self.lose(ticket, state).private
        return torch.from_numpy(opened), StageState(private={**charged, FIGURES: figures})

    def lose(self, ticket: SumTicket, state: StageState) -> StageState:
        """Charge the clients of a lost round.

        It may be lost after the sum of a group was opened.
        """
        counts = count_participations(state.private[PARTICIPATIONS], ticket.clients)
        return StageState(private={PARTICIPATIONS: counts, FIGURES: torch.full_like(state.private[FIGURES], math.nan)})

    def _figures(self, total: Tensor, count: float, updates: int) -> tuple[float, float]:
        """Fraction of clipped updates, and signal to noise, from the noisy sum."""
        assert self.grid is not None
        clipped = (count / (COUNT_SHARE * self.clip * updates) + 1) / 2
        noise = self.grid.step * math.sqrt(updates * self.grid.share * len(total))
        ratio = math.sqrt(max(0.0, (exact_norm(total) / noise) ** 2 - 1)) if noise else math.inf
        return min(max(clipped, 0.0), 1.0), ratio

    def metrics(self, state: StageState) -> Mapping[str, float]:
        """Epsilon of the client with the most messages, and noisy figures.

        The fraction of clipped updates and the ratio of signal to noise are estimates from the noisy sum, so epsilon covers
        them.
        """
        most = int(state.private[PARTICIPATIONS].max())
        clipped, ratio = state.private[FIGURES].tolist()
        names = ("epsilon", "clip", "clipped_fraction", "signal_to_noise")
        figures = zip(names, (bound_accountant(self).epsilon(most), self.clip, clipped, ratio), strict=True)
        return {f"privacy/{name}": value for name, value in figures if math.isfinite(value)}

    def statement(self) -> str | None:
        """A sentence about what the noise protects; None before `bind`."""
        attacker = "the server and everyone who sees the released models (all parties follow the protocol)"
        text = privacy_statement(self, self.noise_multiplier, attacker)
        if text is None or not self.noise_multiplier or self.grid is None:
            return text
        return (
            f"{text} Clients know their own noise: if c of them collude with the server, noise_multiplier counts as "
            f"{self.noise_multiplier:.4g} * sqrt(1 - c / {self.grid.survivors})."
        )
