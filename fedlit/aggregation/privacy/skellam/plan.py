"""The grid for a federation, and its errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fedlit.aggregation.privacy.skellam.grid import SkellamGrid
from fedlit.aggregation.privacy.skellam.rounding import rounded_square
from fedlit.aggregation.privacy.skellam.wrapping import wrap_probability
from fedlit.core.errors import ConfigError
from fedlit.core.facts import SecureSumFacts

BETA = 2.0**-30
"""Probability that a rounding is repeated: so small that the condition adds no bias."""

MAX_SQUARE = 2.0**53
"""Squared norm below which float64 adds whole numbers exactly."""

MAX_SHARE = 2.0**33
"""Variance of a client's noise above which NumPy's Poisson numbers lose accuracy: logarithms of about 10^11 decide them."""

MAX_WRAPS = 1e-9
"""Largest accepted probability that a sum leaves the ring."""


@dataclass(frozen=True, kw_only=True)
class GridPlan:
    """Figures that decide a grid.

    Args:
        norm: largest norm of a client's vector.
        size: numbers of that vector.
        step: distance of two grid points.
        is_rotated: whether the vectors are rotated.
        sums: the groups of the secure sum.
    """

    norm: float
    size: int
    step: float
    is_rotated: bool
    sums: SecureSumFacts

    def grid(self, noise_multiplier: float) -> SkellamGrid:
        """The grid with noise.

        The fewest survivors together have the standard deviation noise_multiplier * largest norm of a client's integers.

        Args:
            noise_multiplier: >= 0; NaN if it is not known yet.
        """
        square = rounded_square(self.norm / self.step, self.size, BETA)
        share = noise_multiplier**2 * square / self.sums.survivors
        wraps = wrap_probability(
            ring=self.sums.ring,
            clients=self.sums.largest,
            norm=math.sqrt(square),
            variance=share,
            size=self.size,
            is_rotated=self.is_rotated,
        )
        figures = {"square": square, "size": self.size, "share": share, "wraps": wraps}
        return SkellamGrid(step=self.step, survivors=self.sums.survivors, **figures)

    def errors(self, grid: SkellamGrid) -> Iterator[ConfigError]:
        """Yield errors of a grid that is too fine."""
        key, coarser = "privacy.granularity", "take a larger granularity, or null for the default"
        if grid.square >= MAX_SQUARE:
            problem = (
                f"makes integers with a squared norm of {grid.square:.3g}, and below {MAX_SQUARE:.3g} sums are exact"
            )
            yield ConfigError(key, self.step, problem, coarser)
        elif grid.share > MAX_SHARE:
            problem = f"needs noise of variance {grid.share:.3g} from each client, which is not drawn accurately"
            yield ConfigError(key, self.step, problem, coarser)
        elif grid.wraps > MAX_WRAPS:
            problem = (
                f"lets the sum of {self.sums.largest:,} clients leave the ring of {self.sums.ring} bits with probability "
                f"{grid.wraps:.2g}"
            )
            yield ConfigError(key, self.step, problem, f"{coarser}; or encryption.ring=64")
