"""Text of a table's cells: means, intervals, units, counts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

ReportValues = Mapping[str, Any]
"""The report as JSON values, or a part of it."""

ROUNDING = 1e-12
"""Half the width of an interval, relative to its mean, that comes from the rounding of equal numbers alone."""

SMALLEST, LARGEST, MAX_PLACES = 1e-4, 1e12, 6
"""Numbers from SMALLEST to below LARGEST have no exponent, and at most MAX_PLACES decimal places."""


def format_cell(estimate: ReportValues | None, with_ends: bool, signed: bool = False, unit: str = "") -> str:
    """Return the text of a mean with its interval.

    Args:
        estimate: `mean` and `half`, and `low` and `high` if `with_ends`; None for an empty cell.
        with_ends: True to write the ends of the interval, False to write half its width.
        signed: True to write + before positive numbers.
        unit: unit of the values; `B` is scaled to kB, MB, GB or TB.
    """
    if estimate is None:
        return "-"
    size, unit = scale_unit(estimate["mean"], unit)
    mean, half, unit = estimate["mean"] / size, estimate["half"], f" {unit}" if unit else ""
    half = 0.0 if half is not None and half < ROUNDING * abs(estimate["mean"]) else half
    form = _number_form(mean, None if half is None else half / size)
    text = f"{mean:{'+' if signed else ''}{form}}"
    if half is None:
        return text + unit
    if not with_ends:
        return f"{text} ± {half / size:{form if half else ',.0f'}}{unit}"
    low, high = (f"{estimate[end] / size:{'+' if signed else ''}{form}}" for end in ("low", "high"))
    return f"{text} [{low}, {high}]{unit}"


def format_mean(estimate: ReportValues | None) -> str:
    """Return the text of a mean alone."""
    return "-" if estimate is None else format_statistics(estimate)[0]


def format_statistics(estimate: ReportValues | None) -> tuple[str, str, str]:
    """Return the texts of a mean, its standard deviation and its interval.

    All have the places of a standard deviation with two digits.

    Args:
        estimate: `mean`, `std`, `low` and `high`; None for empty cells.
    """
    if estimate is None:
        return "-", "-", "-"
    mean, std = estimate["mean"], estimate["std"]
    form = _number_form(mean, std)
    if std is None:
        return f"{mean:{form}}", "-", "-"
    ends = ", ".join(f"{estimate[end]:{form}}" for end in ("low", "high"))
    return f"{mean:{form}}", f"{std:{form if std else ',.0f'}}", f"[{ends}]"


def _number_form(mean: float, deviation: float | None) -> str:
    """Return the format of a mean and of its deviation.

    The deviation has two significant digits, and at most MAX_PLACES decimal places; without one the mean has four digits. If
    both are very small or one is very large, they have an exponent.
    """
    largest = max(abs(mean), deviation or 0.0)
    if largest and not SMALLEST <= largest < LARGEST:
        return ".3e"
    if deviation:
        return f",.{_places(deviation, 2)}f"
    return ",.0f" if mean == int(mean) else f",.{_places(abs(mean), 4)}f"


def _places(value: float, digits: int) -> int:
    """Return the decimal places for `digits` significant digits."""
    return min(max(digits - 1 - math.floor(math.log10(value)), 0), MAX_PLACES)


def scale_unit(value: float, unit: str) -> tuple[float, str]:
    """Return the decimal unit for a number of bytes; other units stay.

    Returns:
        The divisor and the unit.
    """
    if unit != "B":
        return 1.0, unit
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= size:
            return size, name
    return 1.0, "B"


def cell_number(text: str) -> float | None:
    """Return the number at the beginning of a cell, or None.

    A number of bytes is scaled to B."""
    match = re.match(r"([+-]?[\d,]+(?:\.\d+)?(?:e[+-]\d+)?)(?![\w.=])", text)
    if match is None:
        return None
    unit = re.search(r" (TB|GB|MB|kB)$", text)
    size = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}[unit[1]] if unit else 1.0
    return float(match[1].replace(",", "")) * size


def join_values(values: Sequence[Any]) -> str:
    """Return the values in one line, separated by commas."""
    return ", ".join(map(str, values))


def pluralize(count: int, noun: str) -> str:
    """Return the number and noun, such as `1 run` and `2 runs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
