"""The grid of a secure sum with Skellam noise of the clients.

Agarwal, Kairouz, Liu, "The Skellam Mechanism for Differentially Private Federated Learning", NeurIPS 2021,
https://arxiv.org/abs/2110.04995, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlit.aggregation.privacy.skellam.rounding import round_conditionally
from fedlit.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SkellamGrid:
    """Rounding and noise of one client, in steps of the grid.

    A client's noise is the difference of two Poisson numbers with mean `share` / 2 each, so its variance is `share`. Sums of
    such noise have the same form, and any `survivors` clients add a variance of survivors * share.

    Args:
        step: distance of two grid points, > 0.
        square: largest squared norm of a client's integers before the noise.
        size: number of these integers.
        share: variance of the noise of one client on each integer, >= 0; NaN before the mechanism knows the federation.
        survivors: clients whose noise together suffices; a sum of fewer must not be opened.
        wraps: upper bound on the probability that one of the numbers of a group's sum leaves the ring.
    """

    step: float
    square: int
    size: int
    share: float
    survivors: int
    wraps: float = 0.0

    @property
    def variance(self) -> float:
        """Least variance of the noise on each number of an opened sum."""
        return self.survivors * self.share

    def encode(self, vector: np.ndarray, weight: float, generator: np.random.Generator) -> np.ndarray:
        """Round one client's vector, and add its noise.

        Args:
            vector: shape (d,), finite.
            weight: weight of the client, 0 or 1.
            generator: of the client, for rounding and noise.

        Returns:
            int64 of shape (d,), without a limit: only the ring limits the sum.

        Raises:
            ConfigError: if the weight is another.
        """
        if weight not in (0.0, 1.0):
            problem = f"gives a client the weight {weight}, and its noise suits the weights 0 and 1 alone"
            raise ConfigError("algorithm", "", problem, "give each client the weight 1")
        exact = vector.astype(np.float64)
        exact *= weight / self.step
        integers = round_conditionally(exact, self.square, generator).astype(np.int64)
        return integers + draw_skellam(self.share, len(integers), generator)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """The numbers that a sum of integers stands for.

        Args:
            total: sum of clients' integers, int64 of shape (d,).
        """
        return total * self.step

    def describe(self) -> str:
        """The noise and the ring in words."""
        wraps = f"{self.wraps:.1g}" if self.wraps else "1e-300"
        return (
            f"each adds Skellam noise of variance {self.share:.4g}, so any {self.survivors} add {self.variance:.4g} "
            f"(grid step {self.step:.3g}); a sum leaves the ring with probability at most {wraps}"
        )


def draw_skellam(variance: float, size: int, generator: np.random.Generator) -> np.ndarray:
    """Skellam numbers with mean 0, int64 of shape (size,).

    Args:
        variance: their variance, >= 0: twice the mean of each of both Poisson numbers.
        size: number of numbers.
        generator: source of the numbers.

    Raises:
        ValueError: if the variance is NaN.
    """
    return generator.poisson(variance / 2, size) - generator.poisson(variance / 2, size)
