"""Directions of a round's updates, by a random projection of few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from fedlit.core.streams import Purpose, torch_stream

DIMENSIONS = 256
"""Numbers of a sketch: a cosine has a standard error of at most 1 / 16."""
BLOCK = 1 << 16
"""Numbers of a vector that are projected at a time."""


def sketch(vector: Tensor, seed: int) -> Tensor:
    """Return a random projection that keeps inner products in expectation.

    The number at position i is added to the number i mod DIMENSIONS of the sketch, with a random sign. A vector of at most
    DIMENSIONS numbers keeps its inner products exactly.

    Args:
        vector: shape (d,).
        seed: seed of the experiment; all vectors of one seed have the same projection.

    Returns:
        float32, shape (DIMENSIONS,).

    Source: Weinberger et al. 2009 (feature hashing), https://arxiv.org/abs/0902.2206
    """
    signs, total = _signs(len(vector), seed), torch.zeros(DIMENSIONS)
    for i in range(0, len(vector), BLOCK):
        part = vector[i : i + BLOCK].to(torch.float32, copy=True).mul_(signs[i : i + BLOCK])
        if len(part) % DIMENSIONS:
            part = torch.nn.functional.pad(part, (0, -len(part) % DIMENSIONS))
        total += part.view(-1, DIMENSIONS).sum(0)
    return total


@lru_cache(maxsize=2)
def _signs(size: int, seed: int) -> Tensor:
    """Return a random sign of each number, int8."""
    generator = torch_stream(seed, Purpose.PROJECTION)
    return torch.randint(2, (size,), generator=generator, dtype=torch.int8) * 2 - 1


def cosines_to_mean(sketches: Mapping[int, Tensor]) -> dict[int, float]:
    """Return the cosine of each update to the weighted mean.

    An update of zeros has none, and nothing has one if the mean is zero.

    Args:
        sketches: sketch of each client's update times its weight.
    """
    if not sketches:
        return {}
    total = torch.stack([*sketches.values()]).double().sum(0)
    length = float(total.norm())
    lengths = {client: float(one.double().norm()) for client, one in sketches.items()}
    return {
        client: float(one.double().dot(total)) / (length * lengths[client])
        for client, one in sketches.items()
        if length > 0 and lengths[client] > 0
    }


def mean_cosine(cosines: Mapping[int, float]) -> dict[str, float]:
    """Return the mean cosine as a metric, if there is one."""
    return {"drift/mean_cosine": sum(cosines.values()) / len(cosines)} if cosines else {}
