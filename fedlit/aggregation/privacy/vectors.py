"""Norms and noise of vectors, in float64."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 16
"""Numbers that are converted to float64 at a time: so few stay in the processor's cache."""

MIN_CHUNKS = 4
"""Chunks below which the start of threads takes longer than they save."""


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
        generator: source of the numbers: see `add_gaussian`.
        size: number of numbers.
        std: standard deviation, >= 0; 0 draws none.
    """
    return add_gaussian(torch.zeros(size, dtype=torch.float64), generator, std)


def add_gaussian(vector: Tensor, generator: np.random.Generator, std: float, factor: float = 1.0) -> Tensor:
    """factor * vector + noise, computed in float64.

    The result has the vector's dtype. Its memory and a chunk in each thread are all that is needed. The normal numbers are
    drawn by the ziggurat method in float64, whose tails are not cut. There are as many threads as torch has; the result does
    not depend on their number.

    Args:
        vector: float32 or float64, shape (d,); not changed.
        generator: source of the noise of the first chunk; each further chunk has a child of it (`Generator.spawn`).
        std: standard deviation of the noise, >= 0; 0 draws none.
        factor: multiplies the vector.
    """
    if std == 0:
        return torch.zeros(len(vector), dtype=torch.float64).add_(vector, alpha=factor).to(vector.dtype)
    result = torch.empty_like(vector)
    parts, targets = ([part.numpy() for part in each.split(CHUNK)] for each in (vector, result))
    generators = [generator, *generator.spawn(len(parts) - 1)]

    def add(source: np.random.Generator, part: np.ndarray, into: np.ndarray) -> None:
        noise = source.standard_normal(len(part))
        noise *= std
        noise += part if factor == 1 else np.multiply(part, factor, dtype=np.float64)
        into[:] = noise

    threads = torch.get_num_threads() if len(parts) >= MIN_CHUNKS else 1
    with ThreadPoolExecutor(threads) as pool:  # NumPy draws without the interpreter's lock
        list((pool.map if threads > 1 else map)(add, generators, parts, targets))
    return result
