"""Batches of several clients as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlit.client.vectorized.streams import IndexedBatch
from fedlit.core.torch_internals import flatten_tree, unflatten_tree


def stack_batches(batches: Sequence[Any]) -> tuple[list[Any], list[int], list[Tensor], Callable[[list[Any]], Any]]:
    """Stack the tensors of batches of equal structure.

    Returns:
        the leaves of the first batch, the places of the tensors among them, the stacked tensors of shape (clients, ...), and
        the function that makes a batch of leaves.
    """
    first = batches[0]
    if isinstance(first, IndexedBatch):
        samples, numbers = first.samples, np.concatenate([batch.numbers for batch in batches])
        numbers = torch.from_numpy(numbers).to(samples.y.device, non_blocking=True)
        x, y = samples.select(numbers)
        x = x if samples.prepare is None else samples.prepare(x)
        shape = (len(batches), len(first.numbers))
        stacked = [part.unflatten(0, shape) for part in (x, y)]
        return [part[0] for part in stacked], [0, 1], stacked, tuple
    leaves, make_batch = flatten_batch(first)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    others = [flatten_batch(batch)[0] for batch in batches[1:]]
    return leaves, places, [torch.stack([leaves[i], *(other[i] for other in others)]) for i in places], make_batch


def flatten_batch(batch: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Return the leaves of a batch, and the function of its inverse."""
    if type(batch) in (tuple, list) and all(isinstance(part, Tensor) for part in batch):  # the usual batch, quickly
        return list(batch), type(batch)
    leaves, structure = flatten_tree(batch)
    return leaves, partial(unflatten_tree, structure=structure)
