"""DP-FTRL: noise that cancels over rounds, without amplification by sampling.

Kairouz, McMahan, Song, Thakkar, Thakurta, Xu, "Practical and Private (Deep) Learning without Sampling or Shuffling", ICML 2021,
https://arxiv.org/abs/2103.00039; with the banded matrix factorisation of Choquette-Choo et al. 2023: see `banded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.stage import SumTicket
from fedlit.aggregation.privacy.banded import optimal_columns, substitution_row
from fedlit.aggregation.privacy.budget import clip_error
from fedlit.aggregation.privacy.mechanisms.sum_noise import CLIP, SumNoise
from fedlit.aggregation.privacy.vectors import exact_norm, gaussian
from fedlit.core.errors import ConfigError, raise_errors, require_at_least
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout

HISTORY = "noise"
STRATEGY = "strategy"


@dataclass(frozen=True, kw_only=True)
class DPFTRL(SumNoise):
    """Correlated Gaussian noise on the rounds' sums of clipped updates.

    The noise w_t of round t solves C w = Z, with independent Z of standard deviation noise_multiplier * clip. So
    w_t = (z_t - sum_k C[t, t - k] w_(t - k)) / C[t, t], with k from 1 to bands - 1. The noise of so few rounds is in the server
    state: (bands - 1) * d float64 numbers.

    The rounds of a client must be at least `bands` apart. Zeroing a client out then moves C G by at most
    sqrt(ceil(rounds / bands)) * clip, as for ceil(rounds / bands) independent Gaussian releases.

    Args:
        clip: clipping norm, > 0.
        bands: number of diagonals of the strategy, >= 1; None for the separation of the sampler, at most the rounds.
        rounds: rounds of the run; `bind` sets it.
    """

    clip: float = 1.0
    bands: int | None = None
    rounds: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        bands = None if self.bands is None else require_at_least("bands", self.bands)
        raise_errors(clip_error(self.clip), bands)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors, also of cohorts whose clients return too soon."""
        yield from super().check(facts)
        sampling = facts.sampling
        if sampling.kind != "separated":
            problem = "does not keep the rounds of a client apart, which the noise of privacy=ftrl needs"
            yield ConfigError("sampler", "", problem, "set sampler=min_separation")
        elif self.bands is not None and self.bands > (sampling.separation or 1):
            problem = f"is more than the {sampling.separation} rounds between two rounds of a client"
            yield ConfigError("privacy.bands", self.bands, problem, "take fewer bands, or a larger sampler.separation")

    def bind(self, facts: FederationFacts) -> DPFTRL:
        """The mechanism for one federation, with its bands and its noise multiplier."""
        bands = facts.sampling.separation or 1 if self.bands is None else self.bands
        banded = replace(self, bands=min(bands, facts.rounds), rounds=facts.rounds)
        return super(DPFTRL, banded).bind(facts)

    def accounted_sampling(self, sampling: Sampling) -> Sampling:
        """The sampling with the separation that the bands use."""
        return replace(sampling, separation=self.bands)

    def first_clip(self) -> float:
        """The clipping norm."""
        return self.clip

    @cached_property
    def _columns(self) -> np.ndarray:
        assert self.bands is not None
        return optimal_columns(self.rounds, self.bands)

    def init(self, layout: Layout) -> StageState:
        """Make the common state, the strategy, and an empty history."""
        state, columns = super().init(layout), self._columns
        history = torch.zeros(columns.shape[1] - 1, layout.size, dtype=torch.float64)
        return StageState(state.shared, {**state.private, STRATEGY: torch.tensor(columns), HISTORY: history})

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Add the round's correlated noise to the sum."""
        columns, history = state.private[STRATEGY].numpy(), state.private[HISTORY]
        diagonal, *others = substitution_row(columns, ticket.round)
        noise = gaussian(ticket.noise_generator, len(total), self.multiplier * float(state.shared[CLIP]))
        for entry, before in zip(others, history, strict=False):  # the newest first
            noise.sub_(before, alpha=float(entry))
        noise.div_(float(diagonal))
        history = torch.cat([noise[None], history[:-1]])[: len(history)]
        std = exact_norm(noise) / max(len(noise), 1) ** 0.5
        after = self.charge_release(total, std, ticket, state)
        return total + noise, StageState(after.shared, {**after.private, HISTORY: history})
