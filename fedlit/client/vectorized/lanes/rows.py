"""Rows of stacked tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ALL = slice(None)
"""The index of all rows."""


def rows_of(positions: Sequence[int], count: int, device: torch.device) -> Any:
    """Return an index of some rows.

    It is `ALL`, a slice if the rows follow each other, or a tensor on the device: a list would be copied there at each use.

    Args:
        positions: numbers of the rows, ascending.
        count: number of all rows.
        device: device of the stacked tensors.
    """
    if len(positions) == count:
        return ALL
    is_range = positions[-1] - positions[0] == len(positions) - 1
    return slice(positions[0], positions[-1] + 1) if is_range else to_device(list(positions), device)


def to_device(values: Sequence[Any], device: torch.device) -> Tensor:
    """Return a tensor on a device; nothing waits for the device."""
    return torch.tensor(values).to(device, non_blocking=True)
