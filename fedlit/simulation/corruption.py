"""Corruptions of a tensor in a client's update."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import, and the values of a configuration are checked without it
    from torch import Tensor


def is_corruptible(tensor: Tensor) -> bool:
    """Return True if a tensor has floating-point numbers."""
    return tensor.is_floating_point() and tensor.numel() > 0


def _set_one(tensor: Tensor, generator: np.random.Generator, value: float) -> Tensor:
    tensor.view(-1)[int(generator.integers(tensor.numel()))] = value
    return tensor


def _bit_flip(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    import torch

    raw = tensor.view(-1).view(torch.uint8)
    raw[int(generator.integers(raw.numel()))] ^= 1 << int(generator.integers(8))
    return tensor


def _lengthen(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    import torch

    return torch.cat([tensor.view(-1), tensor.new_zeros(1)])


CORRUPTIONS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "nan": lambda tensor, generator: _set_one(tensor, generator, float("nan")),
    "inf": lambda tensor, generator: _set_one(tensor, generator, float("inf")),
    "huge": lambda tensor, generator: _set_one(tensor, generator, 1e30),
    "bit_flip": _bit_flip,
    "wrong_shape": _lengthen,
}
"""Functions that corrupt a floating-point tensor, by name; all but `wrong_shape` change it in place."""
