"""Arithmetic on named tensors. Nothing here changes what it was given."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlit.mistakes import Mistake

Tensors = Mapping[str, Tensor]
Groups = Mapping[str, Tensors]

EXACT = 2**24
"""Up to here float32 has every whole number."""


def add(a: Tensors, b: Tensors) -> dict[str, Tensor]:
    """a + b, name by name."""
    return {name: a[name] + b[name] for name in a}


def sub(a: Tensors, b: Tensors) -> dict[str, Tensor]:
    """a - b, name by name."""
    return {name: a[name] - b[name] for name in a}


def scale(factor: float, a: Tensors) -> dict[str, Tensor]:
    """factor * a, name by name."""
    return {name: factor * tensor for name, tensor in a.items()}


def axpy(factor: float, x: Tensors, y: Tensors) -> dict[str, Tensor]:
    """factor * x + y, name by name."""
    return {name: torch.add(y[name], x[name], alpha=factor) for name in y}


def zeros_like(a: Tensors) -> dict[str, Tensor]:
    """Zeros with the shapes and dtypes of a."""
    return {name: torch.zeros_like(tensor) for name, tensor in a.items()}


def norm(a: Tensors) -> float:
    """Euclidean norm over all tensors jointly, summed in float64."""
    return sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


def change(name: str, new: Tensor, old: Tensor) -> Tensor:
    """new - old, 0 where nothing changed (an infinity less itself is no number), and of truth values as of 0 and 1.

    Raises:
        Mistake: if a whole number moved further than float32 can tell, which is what an update is sent in.
    """
    if new.is_floating_point():
        return torch.where(new == old, torch.zeros_like(new), new - old)
    step = new.to(torch.int64) - old.to(torch.int64)  # small types would wrap around
    if step.numel() and max(int(step.max()), -int(step.min())) > EXACT:
        why = f"cannot average {name}, whose whole numbers moved by more than {EXACT:,}: an update is float32"
        raise Mistake(
            "algorithm.buffers", "mean", why, "algorithm.buffers=server leaves them, or make it a float buffer"
        )
    return step


def moved(old: Tensor, step: Tensor | None) -> Tensor:
    """old + step, added in float64 and integers by whole numbers; `old` itself without a step."""
    if step is None:
        return old
    if not old.is_floating_point():
        return (old.to(torch.int64) + step.round().to(torch.int64)).to(old.dtype)
    return (old.to(torch.float64) + step.to(torch.float64)).to(old.dtype)
