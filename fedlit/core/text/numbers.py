"""Texts of numbers."""

from __future__ import annotations

SMALLEST, LARGEST = 1e-3, 1e7
"""Absolute values from SMALLEST to below LARGEST are written without an exponent."""


def format_number(value: float, places: int = 4) -> str:
    """Return a number with some decimal places, or with an exponent.

    Very small and very large numbers have `places` significant digits and an exponent: 3e-12 would be written as 0.0000.

    Args:
        value: any number, also NaN or infinite.
        places: decimal places, >= 1.
    """
    has_places = value == 0 or SMALLEST <= abs(value) < LARGEST
    return f"{value:.{places}f}" if has_places else f"{value:.{places - 1}e}"
