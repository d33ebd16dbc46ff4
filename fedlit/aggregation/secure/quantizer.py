"""Quantisation of updates to integers that are added in a ring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least, require_positive

EXTRA = 2
"""Integers behind the update: the weight, and the number of clipped coordinates."""

MIN_BITS, MAX_BITS = 2, 32

BLOCK = 1 << 14
"""Coordinates that are quantised at a time: so few stay in the processor's cache."""


@dataclass(frozen=True)
class RingQuantizer:
    """A uniform grid with stochastic rounding, and its ring of integers.

    A client sends weight * update, so that the sum is that of the weighted updates. Weights are whole numbers, and one more
    integer holds them exactly. The grid has 2^bits - 1 points from -max_weight * range to max_weight * range; 0 is one of them.

    Args:
        range: largest absolute value of a coordinate of an update, > 0; larger ones are clipped and counted.
        bits: of one client's integer, from 2 to 32.
        ring: 32 or 64; sums are modulo 2^ring, and each integer takes ring / 8 bytes.
        max_weight: largest weight of a client, >= 1.
    """

    range: float
    bits: int
    ring: int
    max_weight: int = 1

    def __post_init__(self) -> None:
        has_bits = isinstance(self.bits, int) and MIN_BITS <= self.bits <= MAX_BITS
        raise_errors(
            require_positive("range", self.range),
            require(has_bits, "bits", self.bits, f"must be a whole number from {MIN_BITS} to {MAX_BITS}"),
            require(self.ring in (32, 64), "ring", self.ring, "must be 32 or 64"),
            require_at_least("max_weight", self.max_weight),
        )

    @property
    def levels(self) -> int:
        """The largest integer of a client."""
        return 2 ** (self.bits - 1) - 1

    @property
    def step(self) -> float:
        """The distance of two grid points, in units of weight * update."""
        return self.max_weight * self.range / self.levels

    @property
    def dtype(self) -> np.dtype:
        """The dtype of integers modulo the ring."""
        return np.dtype(f"<u{self.ring // 8}")

    def overflows(self, clients: int, size: int, limit: int | None = None) -> Iterator[ConfigError]:
        """Yield an error if a sum could leave the ring.

        Args:
            clients: updates in the largest sum.
            size: d, numbers of an update.
            limit: the largest absolute value of a sum; None for that of the ring.
        """
        allowed = 2 ** (self.ring - 1) - 1 if limit is None else limit
        largest = {"coordinate": self.levels, "weight": self.max_weight, "number of clipped coordinates": size}
        for name, value in largest.items():
            if clients * value > allowed:
                problem = f"is too small: the sum of {clients:,} clients' {name} can reach {clients * value:.3g}"
                yield ConfigError("ring", self.ring, problem, "use ring=64, or fewer bits")
                return

    def weight_error(self, weight: float) -> ConfigError | None:
        """An error unless a client can have this weight."""
        is_whole = 0 <= weight <= self.max_weight and float(weight).is_integer()
        problem = f"gives a client the weight {weight}, and a mask needs a whole number from 0 to {self.max_weight}"
        return require(is_whole, "algorithm", "", problem, "give whole weights, up to encryption.max_weight")

    def quantize(self, vector: np.ndarray, weight: float, generator: np.random.Generator) -> np.ndarray:
        """Quantise one client's update.

        Args:
            vector: the update, shape (d,); finite.
            weight: a whole number in [0, max_weight].
            generator: of the client, for the rounding.

        Returns:
            The integers modulo the ring, shape (d + 2,): weight * update, the weight, the number of clipped coordinates.

        Raises:
            ConfigError: if the weight is not allowed.
        """
        raise_errors(self.weight_error(weight))
        clipped, integers = 0, np.empty(len(vector) + EXTRA, self.dtype)
        signed = integers.view(f"<i{self.ring // 8}")
        for start in range(0, len(vector), BLOCK):
            exact = vector[start : start + BLOCK].astype(np.float64)
            clipped += int(np.count_nonzero(np.abs(exact) > self.range))
            exact *= weight / self.step
            np.clip(exact, -self.levels, self.levels, out=exact)
            exact += generator.random(len(exact))
            np.floor(exact, out=exact)
            signed[start : start + len(exact)] = exact
        integers[-EXTRA:] = np.array([int(weight), clipped]).astype(self.dtype)  # modulo the ring
        return integers

    def signed(self, total: np.ndarray) -> np.ndarray:
        """The sum of integers, int64, from their sum modulo the ring."""
        return total.astype(self.dtype, copy=False).view(f"<i{self.ring // 8}").astype(np.int64)

    def dequantize(self, total: np.ndarray) -> tuple[np.ndarray, float, int]:
        """Return the numbers that a sum of integers stands for.

        Args:
            total: sum of clients' integers, int64 of shape (d + 2,).

        Returns:
            The sum of weight * update, float64 of shape (d,); the sum of the weights; the number of clipped coordinates.
        """
        return total[:-EXTRA] * self.step, float(total[-EXTRA]), int(total[-1])
