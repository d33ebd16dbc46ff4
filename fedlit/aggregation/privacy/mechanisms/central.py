"""Central differential privacy: DP-FedAvg with a fixed or an adaptive clipping norm.

McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
https://arxiv.org/abs/1710.06963, Algorithm 1, with the expected cohort as the divisor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fedlit.aggregation.channel.stage import SumTicket
from fedlit.aggregation.privacy.adaptive import QuantileClip
from fedlit.aggregation.privacy.budget import clip_error
from fedlit.aggregation.privacy.mechanisms.sum_noise import CLIP, SumNoise
from fedlit.aggregation.privacy.vectors import add_gaussian
from fedlit.core.errors import ConfigError, raise_errors, require
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import StageState


@dataclass(frozen=True, kw_only=True)
class CentralDP(SumNoise):
    """Independent Gaussian noise on each round's sum of clipped updates.

    Args:
        clip: clipping norm, > 0; `adaptive` moves it towards a quantile of the updates' norms.
        initial_clip: clipping norm of round 1 if it is adaptive, > 0.
        quantile: share of updates that an adaptive norm should not clip, in (0, 1).
        clip_lr: learning rate of the logarithm of an adaptive norm, > 0.
        count_noise: standard deviation of the noise on the number of updates that were not clipped, > 0; None for a twentieth
            of the expected cohort.
    """

    clip: float | Literal["adaptive"] = 1.0
    initial_clip: float = 0.1
    quantile: float = 0.5
    clip_lr: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.clip, str):
            hint = "adaptive follows a quantile of the updates' norms"
            raise_errors(
                require(self.clip == "adaptive", "clip", self.clip, "must be greater than 0, or adaptive", hint)
            )
        else:
            raise_errors(clip_error(self.clip))
        self._adaptive  # raises the errors of its arguments  # noqa: B018

    @cached_property
    def _adaptive(self) -> QuantileClip | None:
        if self.clip != "adaptive":
            return None
        return QuantileClip(self.initial_clip, self.quantile, self.clip_lr, self.count_noise)

    def first_clip(self) -> float:
        """The clipping norm of round 1."""
        return self.initial_clip if isinstance(self.clip, str) else self.clip

    @property
    def update_multiplier(self) -> float:
        """The noise multiplier of the updates.

        It is more than the joint one if a noisy count is released, too.
        """
        if self._adaptive is None:
            return self.multiplier
        assert self.expected is not None
        return self._adaptive.update_multiplier(self.multiplier, self.expected)

    def bind(self, facts: FederationFacts) -> CentralDP:
        """The mechanism for one federation, with its noise multiplier."""
        bound = super().bind(facts)
        try:
            bound.update_multiplier  # noqa: B018
        except ValueError as error:
            problem = f"is too small for the noise multiplier {bound.multiplier:.4g}: {error}"
            hint = f"take more clients a round than {bound.expected:.4g}, or set privacy.count_noise"
            raise ConfigError("privacy.count_noise", self.count_noise, problem, hint) from error
        return bound

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Add noise to the sum; then move an adaptive norm.

        The noise is scaled by the norm that clipped this round.
        """
        clip, generator = float(state.shared[CLIP]), ticket.noise_generator
        count = 0.0 if self._adaptive is None or not self.multiplier else float(generator.standard_normal())
        std = self.update_multiplier * clip
        opened, after = add_gaussian(total, generator, std), self.charge_release(total, std, ticket, state)
        if self._adaptive is None:
            return opened, after
        assert self.expected is not None
        noise, unclipped = count * self._adaptive.count_std(self.expected), ticket.updates - ticket.clipped
        moved = self._adaptive.next_clip(clip, unclipped, ticket.updates, self.expected, noise)
        return opened, StageState({CLIP: torch.tensor(moved, dtype=torch.float64)}, after.private)
