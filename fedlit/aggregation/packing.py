"""TODO."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from fedlit.core.tensors import Groups, Layout


def pack_update(layout: Layout, groups: Groups, weight: float) -> bytearray:
    """An update's message: its weight and the float32 vector. Raises ValueError as `Layout.vector` does."""
    message = bytearray(8 + 4 * layout.size)
    struct.pack_into("<d", message, 0, weight)
    layout.vector(groups, out=_numbers(message))
    return message


def unpack_update(message: bytearray) -> tuple[Tensor, float]:
    """The float32 vector, which shares the message's memory, and the weight."""
    (weight,) = struct.unpack_from("<d", message)
    return _numbers(message), weight


def _numbers(message: bytearray) -> Tensor:
    return torch.frombuffer(message, dtype=torch.float32, offset=8) if len(message) > 8 else torch.zeros(0)
