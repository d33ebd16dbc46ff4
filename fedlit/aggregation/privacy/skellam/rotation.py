"""Random rotation of a vector, which spreads its length over all numbers.

Suresh, Yu, Kumar, McMahan, "Distributed Mean Estimation with Limited Communication", ICML 2017,
https://arxiv.org/abs/1611.00429, Section 3: y = H D x / sqrt(n), with random signs D and the Hadamard matrix H.
"""

from __future__ import annotations

import numpy as np


def rotated_size(size: int) -> int:
    """Length of a rotated vector: the next power of two.

    Args:
        size: length of the vector, >= 1.
    """
    return 1 << (size - 1).bit_length()


def rotate(vector: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rotate a vector, with zeros behind it.

    Args:
        vector: float64 of shape (d,); not changed.
        generator: draws the signs; all clients of a round need the same.

    Returns:
        float64 of shape (rotated_size(d),), with the same norm.
    """
    padded = np.zeros(rotated_size(len(vector)))
    padded[: len(vector)] = vector
    padded *= _signs(len(padded), generator)
    return _transform(padded)


def unrotate(vector: np.ndarray, generator: np.random.Generator, size: int) -> np.ndarray:
    """Undo `rotate`.

    Args:
        vector: float64 of shape (rotated_size(size),); not changed.
        generator: as for `rotate`, with the same seed.
        size: length of the result.
    """
    return (_transform(vector.copy()) * _signs(len(vector), generator))[:size]


def _signs(size: int, generator: np.random.Generator) -> np.ndarray:
    return 2.0 * generator.integers(0, 2, size, dtype=np.int8) - 1.0


def _transform(vector: np.ndarray) -> np.ndarray:
    """The orthonormal Walsh-Hadamard transform, in place."""
    half = 1
    while half < len(vector):
        pairs = vector.reshape(-1, 2, half)
        difference = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = difference
        half *= 2
    vector /= np.sqrt(len(vector))
    return vector
