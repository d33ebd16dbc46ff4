"""What seeds say: means with Student-t intervals, differences, areas.

An interval is about the mean over seeds, as if each seed's value were drawn from one normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
"""Of all intervals: the share of experiments in which they hold the truth."""

Array = np.ndarray | np.floating


def student_interval(values: np.ndarray) -> tuple[Array, Array]:
    """Mean over the last axis, and half the width of its interval, which is NaN for one value.

    Source: Student, Biometrika 6 (1908), https://doi.org/10.1093/biomet/6.1.1
    """
    count = values.shape[-1]
    mean = values.mean(-1)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, _quantile(count - 1) * values.std(-1, ddof=1) / math.sqrt(count)


def welch_interval(a: np.ndarray, b: np.ndarray) -> tuple[Array, Array]:
    """Difference of the means over the last axis, a's less b's, as if nothing paired them, and half the width of its
    interval, which is NaN if there is one value of either.

    Source: Welch, Biometrika 34 (1947), https://doi.org/10.1093/biomet/34.1-2.28
    """
    difference = a.mean(-1) - b.mean(-1)
    if min(a.shape[-1], b.shape[-1]) < 2:
        return difference, np.full_like(difference, np.nan)
    parts = [values.var(-1, ddof=1) / values.shape[-1] for values in (a, b)]
    variance = parts[0] + parts[1]
    with np.errstate(invalid="ignore"):  # of 0 / 0, where all values are the same
        freedom = variance**2 / sum(
            part**2 / (values.shape[-1] - 1) for part, values in zip(parts, (a, b), strict=True)
        )
        half = _quantile(freedom) * np.sqrt(variance)
    return difference, np.where(variance > 0, half, 0.0)


def area_under_curve(x: np.ndarray, y: np.ndarray) -> float:
    """Area under the line through the points, by trapezoids, divided by its length: the line's mean height."""
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])


def _quantile(freedom: Array | int) -> Array:
    return stdtrit(freedom, (1 + LEVEL) / 2)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: of the values.
        half: half the width of its interval; None where one value says nothing of the others.
        std: sample standard deviation; None of one value.
        values: seed by seed.
    """

    mean: float
    half: float | None
    std: float | None
    values: Mapping[int, float]

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Estimate | None:
        """The estimate from values that are numbers; None where there are none."""
        if not values:
            return None
        array = np.array([*values.values()], dtype=np.float64)
        mean, half = student_interval(array)
        return cls(float(mean), _number(half), float(array.std(ddof=1)) if len(array) > 1 else None, dict(values))

    @classmethod
    def paired(cls, a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
        """The mean of a's value less b's over the seeds that both have."""
        return cls.of({seed: value - b[seed] for seed, value in a.items() if seed in b})

    def plain(self) -> dict[str, Any]:
        """As JSON values, with the interval's ends and the number of seeds."""
        ends = (None, None) if self.half is None else (self.mean - self.half, self.mean + self.half)
        return {"n": len(self.values), "low": ends[0], "high": ends[1], **asdict(self)}


def unpaired(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, Any] | None:
    """The difference of the means with Welch's interval, as JSON values; None where one has no values."""
    if not a or not b:
        return None
    mean, half = map(float, welch_interval(np.array([*a.values()]), np.array([*b.values()])))
    ends = (mean - half, mean + half) if math.isfinite(half) else (None, None)
    return {"n": [len(a), len(b)], "mean": mean, "half": _number(half), "low": ends[0], "high": ends[1]}


def _number(value: Array | float) -> float | None:
    return float(value) if math.isfinite(value) else None
