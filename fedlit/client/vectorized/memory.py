"""Memory of stacked weights."""

from __future__ import annotations

import torch
from torch import Tensor

from fedlit.core.torch_internals import is_memory_shared

MAX_KEPT = 32 << 20
"""Bytes of the largest tensor of a stack that is kept for later stacks."""


class StackMemory:
    """Memory of stacked weights, which later stacks use again.

    Client rules get views of it, so it is used again only if none of them is left.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[type[StackMemory], tuple[()]]:
        """Return the form for pickle: another process has memory of its own."""
        return StackMemory, ()

    def take(self, name: str, like: Tensor, count: int) -> Tensor:
        """Return a tensor of shape (count, ...), with any content.

        Args:
            name: name of the weights.
            like: weights of one client.
            count: number of clients.
        """
        kept = self._tensors.pop(name, None)
        if kept is None or not _suits(kept, like, count) or is_memory_shared(kept):
            kept = torch.empty((count, *like.shape), dtype=like.dtype, device=like.device)
        if kept.nbytes <= MAX_KEPT:
            self._tensors[name] = kept
        return kept[:count]


def _suits(kept: Tensor, like: Tensor, count: int) -> bool:
    """Return True if a tensor has enough rows of the same kind."""
    is_like = (kept.shape[1:], kept.dtype, kept.device) == (like.shape, like.dtype, like.device)
    return is_like and len(kept) >= count
