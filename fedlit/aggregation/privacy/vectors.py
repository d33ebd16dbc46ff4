"""Norms and noise of vectors, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 16
"""Numbers that are converted to float64 at a time: so few stay in the processor's cache."""


def exact_norm(vector: Tensor) -> float:
    """Euclidean norm of a vector, summed in float64.

    Args:
        vector: float32 or float64, shape (d,).
    """
    square = 0.0
    for chunk in vector.split(CHUNK):
        exact = chunk.double()
        square += float(exact.dot(exact))
    return math.sqrt(square) if square >= 0 else math.nan


def clip_factor(vector: Tensor, clip: float) -> float:
    """The factor, at most 1, that limits a vector's norm.

    Args:
        vector: float32 or float64, shape (d,).
        clip: largest norm, > 0.

    Returns:
        A number in (0, 1]; NaN or 0 for a vector that is not finite, so that the product is not finite either.
    """
    length = exact_norm(vector)
    return 1.0 if length <= clip else clip / length


def gaussian(generator: np.random.Generator, size: int, std: float) -> Tensor:
    """Independent normal numbers with mean 0, float64 of shape (size,).

    Args:
        generator: source of the numbers.
        size: number of numbers.
        std: standard deviation, >= 0; 0 draws none.
    """
    if std == 0:
        return torch.zeros(size, dtype=torch.float64)
    return torch.from_numpy(generator.standard_normal(size)).mul_(std)


def add_gaussian(vector: Tensor, generator: np.random.Generator, std: float, factor: float = 1.0) -> Tensor:
    """factor * vector + noise, computed in float64.

    The result has the vector's dtype. Its memory and a chunk are all that is needed; the noise is that of `gaussian`.

    Args:
        vector: float32 or float64, shape (d,); not changed.
        generator: source of the noise.
        std: standard deviation of the noise, >= 0; 0 draws none.
        factor: multiplies the vector.
    """
    result = torch.empty_like(vector)
    for part, into in zip(vector.split(CHUNK), result.split(CHUNK), strict=True):
        into.copy_(gaussian(generator, len(part), std).add_(part, alpha=factor))
    return result
