"""Colours, lines and file formats of all figures."""

from __future__ import annotations

import textwrap
from typing import Any

from fedlit.core.text.escape import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can distinguish, without the faint yellow.

Source: Okabe and Ito, https://jfly.uni-koeln.de/color/
"""
LINES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "fedlit",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a value may have dollar signs
}
"""Settings with which the same report gives identical files."""
FORMATS: dict[str, Any] = {"png": {"dpi": 150, "metadata": {"Software": None}}, "svg": {"metadata": {"Date": None}}}
"""Arguments of savefig for each format."""


def wrap(text: str, width: int) -> str:
    """Return a printable text in lines, broken between words."""
    return textwrap.fill(printable(text), width, break_on_hyphens=False)
