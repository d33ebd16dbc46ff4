"""Values as JSON, which has no word for what is not a number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def json_line(value: Any, indent: int | None = None) -> str:
    """The value as JSON text; numbers that are NaN or infinite are null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def json_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The records of a file, one a line, and whether a last line was cut off, which a killed process may leave.

    Raises:
        ValueError: if a whole line is not JSON.
    """
    *lines, last = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines], bool(last)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
