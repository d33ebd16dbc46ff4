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
        old = self._tensors.pop(name, None)
        shape = (count, *like.shape)
        if (
            old is None
            or (old.shape, old.dtype, old.device) != (shape, like.dtype, like.device)
            or is_memory_shared(old)
        ):
            old = torch.empty(shape, dtype=like.dtype, device=like.device)
        if old.nbytes <= MAX_KEPT:
            self._tensors[name] = old
        return old
