"""Content of a run's small files, within bounds."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where installed, is ten times as fast
MAX_BYTES = 16 * 2**20
"""Size of the largest configuration, summary or command that is read."""
MAX_VALUES = 200_000
"""Number of values in the largest configuration, where a value counts once for each alias."""
IN_PROGRESS = -1


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file.

    Raises:
        OSError, ValueError, RecursionError, yaml.YAMLError: if the file is missing, too large, or not YAML.
    """
    content = yaml.load(read_bytes(path), LOADER)
    if _count_values(content, {}) > MAX_VALUES:
        raise ValueError(f"has more than {MAX_VALUES:,} values")
    return content


def read_json(path: Path) -> Any:
    """The plain values of a JSON file.

    Raises:
        OSError, ValueError, RecursionError: if the file is missing, too large, or not JSON.
    """
    return json.loads(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError, ValueError: if it is missing, too large, or no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe without a writer would block
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is not a file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES:,} bytes")
    return content


def _count_values(node: Any, counts: dict[int, int]) -> int:
    """The number of values at and below a node."""
    if not isinstance(node, Mapping | list):
        return 1
    if id(node) not in counts:
        counts[id(node)] = IN_PROGRESS
        parts = node.values() if isinstance(node, Mapping) else node
        counts[id(node)] = min(1 + sum(_count_values(part, counts) for part in parts), MAX_VALUES + 1)
    if counts[id(node)] == IN_PROGRESS:
        raise ValueError("has a value that contains itself, a recursion")
    return counts[id(node)]
