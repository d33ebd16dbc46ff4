"""Directions of a round's updates, by a random projection of few numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedlit.core.streams import Purpose, stream

DIMENSIONS = 256
"""Numbers of a sketch: see `sketch` for its standard error."""

CELLS = [n for n in range(4097, 8192, 2) if all(n % k for k in range(3, 91, 2))]
"""Possible numbers of cells: 464 primes, of which at most two divide a distance of less than 2^36."""

OVERLAP = 4
"""Rows of numbers that share a sign: signs take as many bytes as the vector has numbers."""


@dataclass(frozen=True)
class Projection:
    """The random signs and buckets of a sketch.

    A vector is written into a matrix row by row. The columns of the matrix are the cells. Row r has the signs from position
    r * (cells // OVERLAP) of one list, and each cell has another sign, so that numbers of two cells are independent.

    Args:
        signs: sign of each number, float32 of shape (rows, cells), a view of the list.
        cell_signs: sign of each cell, float32 of shape (cells,).
        buckets: bucket of each cell, integers of shape (cells,).
    """

    signs: np.ndarray
    cell_signs: np.ndarray
    buckets: np.ndarray

    @classmethod
    def draw(cls, size: int, seed: int) -> Projection:
        """Draw the projection of an experiment for vectors of one length."""
        random = stream(seed, Purpose.PROJECTION)
        cells = CELLS[random.integers(len(CELLS))]
        rows, step = size // cells + 1, cells // OVERLAP
        cell_signs, signs = (_draw_signs(random, n) for n in (cells, rows * step + cells))
        windows = np.lib.stride_tricks.sliding_window_view(signs, cells)[::step]
        return cls(windows[:rows], cell_signs, random.permutation(cells) % DIMENSIONS)

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """Project a vector, float32 of shape (d,), to shape (DIMENSIONS,)."""
        size = len(self.cell_signs)
        rows, rest = divmod(len(vector), size)
        used = size if rows else rest  # the other cells are zeros
        with np.errstate(over="ignore", invalid="ignore"):  # a vector of huge numbers has no cosine
            cells = vector[len(vector) - rest :] * self.signs[rows, :rest]
            if rows:
                sums = np.einsum("rc,rc->c", vector[: rows * size].reshape(rows, size), self.signs[:rows])
                sums[:rest] += cells
                cells = sums
            return np.bincount(self.buckets[:used], cells * self.cell_signs[:used], DIMENSIONS).astype(np.float32)


def _draw_signs(random: np.random.Generator, count: int) -> np.ndarray:
    return (1 - 2 * random.integers(2, size=count, dtype=np.int8)).astype(np.float32)


_projection = lru_cache(maxsize=2)(Projection.draw)


def sketch(vector: Tensor, seed: int) -> Tensor:
    """Return a random projection that keeps inner products in expectation.

    It is a count sketch: position i belongs to cell i mod p, with p a random prime; cells are dealt at random to DIMENSIONS
    buckets; a bucket is the sum of its numbers, each with a random sign. A vector of at most DIMENSIONS numbers stays as it is.

    Let s and t be the sketches of vectors a and b. Then s . t has the mean a . b, and a standard error of about
    |a| |b| sqrt(1 + cos(a, b)^2) / 16. The variance is at most (|a|^2 |b|^2 + (a . b)^2) / 256 + 2 OVERLAP C, up to 1 %, with C
    the sum of a_i^2 b_j^2 over positions i != j of one cell. The mean of C is at most |a|^2 |b|^2 / 232 for any two vectors.

    Args:
        vector: shape (d,), on the CPU.
        seed: seed of the experiment; all vectors of one seed and length have the same projection.

    Returns:
        float32, shape (DIMENSIONS,).

    Source: Charikar, Chen, Farach-Colton 2002 (count sketch), https://doi.org/10.1007/3-540-45465-9_59; Weinberger et al. 2009
    (feature hashing), https://arxiv.org/abs/0902.2206
    """
    numbers = vector.to(torch.float32)
    if len(numbers) <= DIMENSIONS:
        return torch.nn.functional.pad(numbers, (0, DIMENSIONS - len(numbers)))
    return torch.from_numpy(_projection(len(numbers), seed)(numbers.numpy()))


def cosines_to_mean(sketches: Mapping[int, Tensor]) -> dict[int, float]:
    """Return the cosine of each update to the weighted mean.

    An update of zeros has none, nor has one whose sketch is infinite. Nothing has one if the mean is zero.

    Args:
        sketches: sketch of each client's update times its weight.
    """
    if not sketches:
        return {}
    rows = torch.stack([*sketches.values()]).double()
    total = rows.sum(0)
    products = (rows * total).sum(1).tolist()
    lengths, length = rows.norm(dim=1).tolist(), float(total.norm())
    return {
        client: product / (length * own)
        for client, product, own in zip(sketches, products, lengths, strict=True)
        if 0 < length < math.inf and 0 < own < math.inf
    }


def mean_cosine(cosines: Mapping[int, float]) -> dict[str, float]:
    """Return the mean cosine as a metric, if there is one."""
    return {"drift/mean_cosine": sum(cosines.values()) / len(cosines)} if cosines else {}
