"""Statistics over seeds: means with Student-t intervals, differences, areas under curves.

An interval is an interval of the mean over seeds. It assumes that the seeds' values come from one normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
"""Confidence level of all intervals."""

Array = np.ndarray | np.floating


def student_interval(values: np.ndarray) -> tuple[Array, Array]:
    """Return the mean over the last axis with its Student-t interval.

    Args:
        values: shape (..., n).

    Returns:
        The mean and half the width of its interval, shape (...,). Half the width is NaN for n = 1.

    Source: Student, Biometrika 6 (1908), https://doi.org/10.1093/biomet/6.1.1
    """
    count = values.shape[-1]
    mean = values.mean(-1)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, student_quantile(count - 1) * values.std(-1, ddof=1) / math.sqrt(count)


def welch_interval(a: np.ndarray, b: np.ndarray) -> tuple[Array, Array]:
    """Return the difference of two means with its Welch interval.

    The means are over the last axis.

    Args:
        a: shape (..., n).
        b: shape (..., m).

    Returns:
        The difference a - b of the unpaired means and half the width of its interval, shape (...,). Half the width is NaN
        for n = 1 or m = 1.

    Source: Welch, Biometrika 34 (1947), https://doi.org/10.1093/biomet/34.1-2.28
    """
    difference = a.mean(-1) - b.mean(-1)
    if min(a.shape[-1], b.shape[-1]) < 2:
        return difference, np.full_like(difference, np.nan)
    parts = [values.var(-1, ddof=1) / values.shape[-1] for values in (a, b)]
    variance = parts[0] + parts[1]
    with np.errstate(invalid="ignore"):  # 0 / 0 if all values are equal
        freedom = variance**2 / sum(
            part**2 / (values.shape[-1] - 1) for part, values in zip(parts, (a, b), strict=True)
        )
        half = student_quantile(freedom) * np.sqrt(variance)
    return difference, np.where(variance > 0, half, 0.0)


def area_under_curve(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean height of the line through the points.

    It is the area under the line by trapezoids, divided by the length of the line.

    Args:
        x: ascending, shape (n,).
        y: shape (n,).
    """
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])


def student_quantile(freedom: Array | int) -> Array:
    """Return the half width of an interval in standard errors.

    Args:
        freedom: degrees of freedom.
    """
    return stdtrit(freedom, (1 + LEVEL) / 2)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: mean of the values.
        half: half the width of the interval; None for one value.
        std: sample standard deviation; None for one value.
        values: values by seed.
    """

    mean: float
    half: float | None
    std: float | None
    values: Mapping[int, float]

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Estimate | None:
        """Return the estimate from finite values by seed, or None."""
        if not values:
            return None
        array = np.array([*values.values()], dtype=np.float64)
        mean, half = student_interval(array)
        return cls(
            float(mean), _finite_or_none(half), float(array.std(ddof=1)) if len(array) > 1 else None, dict(values)
        )

    @classmethod
    def paired(cls, a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
        """Return the estimate of a - b over common seeds, or None."""
        return cls.of({seed: value - b[seed] for seed, value in a.items() if seed in b})

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values with the interval's ends and the number of seeds."""
        low, high = (None, None) if self.half is None else (self.mean - self.half, self.mean + self.half)
        return {"n": len(self.values), "low": low, "high": high, **asdict(self)}


def unpaired(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, Any] | None:
    """Return the difference of two means as JSON values.

    Returns:
        The mean of a less the mean of b, with its Welch interval: `n` of both, `mean`, `half`, `low` and `high`; None if a
        or b is empty.
    """
    if not a or not b:
        return None
    mean, half = map(float, welch_interval(np.array([*a.values()]), np.array([*b.values()])))
    low, high = (mean - half, mean + half) if math.isfinite(half) else (None, None)
    return {"n": [len(a), len(b)], "mean": mean, "half": _finite_or_none(half), "low": low, "high": high}


def _finite_or_none(value: Array | float) -> float | None:
    return float(value) if math.isfinite(value) else None
