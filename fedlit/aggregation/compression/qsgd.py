"""QSGD: a few levels between 0 and a norm, with stochastic rounding.

Alistarh, Grubic, Li, Tomioka, Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS
2017, https://arxiv.org/abs/1610.02132, Section 3.1; buckets: Section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.compression.bits import pack_bits, packed_nbytes, unpack_bits
from fedlit.aggregation.compression.rounding import Quantizer, without_zeros
from fedlit.aggregation.compression.segments import Segments, blocks, scratch
from fedlit.core.errors import raise_errors, require
from fedlit.core.tensors import Layout

MAX_LEVELS = 127


@dataclass(frozen=True)
class QSGD(Codec):
    """Send a level of each number, and a norm per bucket.

    Q(v)_i = ||v|| sign(v_i) l_i / s, where l_i is one of the two whole numbers next to s |v_i| / ||v||, and Q is unbiased. The
    variance is at most min(n / s^2, sqrt(n) / s) ||v||^2 for a bucket of n numbers. So the vector is cut into buckets, as the
    paper does for its experiments: with one norm for a million numbers, almost all of them would become 0.

    Args:
        levels: s, levels above 0. A number takes ceil(log2(2 s + 1)) bits: 7 levels take 4 bits, 127 levels 8 bits.
        bucket: numbers that share a norm; None for the whole vector.
    """

    levels: int = 7
    bucket: int | None = 512

    packs_weights = True

    def __post_init__(self) -> None:
        allowed = f"must be a whole number from 1 to {MAX_LEVELS}"
        raise_errors(
            require(1 <= self.levels <= MAX_LEVELS, "levels", self.levels, allowed),
            require(
                self.bucket is None or self.bucket >= 1,
                "bucket",
                self.bucket,
                "must be a whole number of at least 1",
                "null gives the whole vector one norm",
            ),
        )

    @property
    def contracts(self) -> bool:
        """True if the bound of the variance is below 1.

        The bound is sqrt(bucket) / levels.
        """
        return self.bucket is not None and self.bucket < self.levels**2

    @property
    def _width(self) -> int:
        return (2 * self.levels).bit_length()

    @np.errstate(invalid="ignore", over="ignore")  # NaN and infinity arrive as such, and the server refuses them
    def pack(self, vector: Tensor, ticket: Ticket) -> bytes:
        """Round each number to a level of its bucket."""
        segments, values = self._segments(len(vector)), vector.numpy()
        norms, quantizer = segments.norms(values), Quantizer(self.levels, ticket.bits)
        divisors = without_zeros(norms)
        parts: list[bytes | memoryview] = [norms.astype("<f4").data]
        for block in blocks(len(values)):
            levels = scratch("levels", np.int8, block.stop - block.start)
            quantizer.quantize(segments, values[block], divisors, block, out=levels)
            codes = levels.view(np.uint8)
            codes += np.uint8(self.levels)  # modulo 256: from -levels to 0, from levels to 2 levels
            parts.append(pack_bits(codes, self._width))
        return b"".join(parts)

    @np.errstate(invalid="ignore")
    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Multiply each level by the norm of its bucket."""
        segments, vector = self._segments(layout.size), np.empty(layout.size, np.float32)
        norms = np.frombuffer(content, "<f4", len(segments))
        units, start = norms / np.float32(self.levels), norms.nbytes
        for block in blocks(layout.size):
            part = vector[block]
            codes = unpack_bits(content[start:], len(part), self._width)
            part[:] = (codes - np.uint8(self.levels)).view(np.int8)  # modulo 256
            segments.multiply(part, units, block, out=part)
            start += packed_nbytes(len(part), self._width)
        return torch.from_numpy(vector)

    def nbytes(self, layout: Layout) -> int:
        """Length of the packed vector in bytes."""
        sizes = (block.stop - block.start for block in blocks(layout.size))
        return 4 * len(self._segments(layout.size)) + sum(packed_nbytes(size, self._width) for size in sizes)

    def _segments(self, size: int) -> Segments:
        return Segments.of_buckets(size, self.bucket or size)
