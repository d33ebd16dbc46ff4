"""Adaptive clipping: the clipping norm follows a quantile of the updates' norms.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021,
https://arxiv.org/abs/1905.03871, Algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedlit.core.errors import raise_errors, require, require_positive


@dataclass(frozen=True)
class QuantileClip:
    """A clipping norm that follows a quantile of the updates' norms.

    C <- C * exp(-lr * (b - quantile)), where b is the noisy share of updates that were not clipped.

    Args:
        initial: clipping norm of round 1, > 0.
        quantile: share of updates that should not be clipped, in (0, 1).
        lr: learning rate of the logarithm of the clipping norm, > 0.
        count_noise: standard deviation of the noise on the number of updates that were not clipped, > 0; None for a twentieth
            of the expected cohort.
    """

    initial: float = 0.1
    quantile: float = 0.5
    lr: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        raise_errors(
            require_positive("initial", self.initial),
            require(0 < self.quantile < 1, "quantile", self.quantile, "must be greater than 0 and less than 1"),
            require_positive("lr", self.lr),
            None if self.count_noise is None else require_positive("count_noise", self.count_noise),
        )

    def count_std(self, expected: float) -> float:
        """Standard deviation of the noise on the count.

        Args:
            expected: expected cohort.
        """
        return expected / 20 if self.count_noise is None else self.count_noise

    def update_multiplier(self, noise_multiplier: float, expected: float) -> float:
        """Noise multiplier of the updates, next to a noisy count.

        Both releases together have the given multiplier. A client moves the centred count by 1/2 at most, and the sum by C.
        Both scaled by their noise have the joint norm 1 / noise_multiplier if the updates' multiplier is
        (z^-2 - (2 * count_std)^-2)^(-1/2).

        Args:
            noise_multiplier: the joint noise multiplier z, >= 0.
            expected: expected cohort.

        Raises:
            ValueError: if the noise on the count alone is too small for the joint multiplier.
        """
        double = 2 * self.count_std(expected)
        if noise_multiplier == 0:
            return 0.0
        if double <= noise_multiplier:
            raise ValueError(f"the noise on the count must exceed {noise_multiplier / 2:.4g}")
        return 1 / math.sqrt(noise_multiplier**-2 - double**-2)

    def next_clip(self, clip: float, unclipped: int, updates: int, expected: float, noise: float) -> float:
        """The clipping norm of the next round.

        Args:
            clip: the clipping norm of this round.
            unclipped: number of updates whose norm was at most `clip`.
            updates: number of updates in the sum.
            expected: expected cohort, which divides the noisy count.
            noise: the noise on the count.
        """
        centred = unclipped - updates / 2  # a client adds 1/2 or -1/2, and a missing client 0
        share = 0.5 + (centred + noise) / expected
        return clip * math.exp(-self.lr * (share - self.quantile))
