"""Codecs that shorten each number: half precision and int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.compression.segments import Segments, blocks, scratch
from fedlit.core.errors import raise_errors, require_choice
from fedlit.core.tensors import Layout

MAX_INT8 = 127


@dataclass(frozen=True)
class Half(Codec):
    """Two bytes a number, rounded to the nearest.

    Args:
        dtype: `bfloat16` has the range of float32 and 8 significant bits; `float16` has 11 significant bits, and numbers above
            65,504 become infinite, so that the update is left out as `not_finite`.
    """

    dtype: Literal["bfloat16", "float16"] = "bfloat16"

    packs_weights = True

    def __post_init__(self) -> None:
        raise_errors(require_choice("dtype", self.dtype, ("bfloat16", "float16")))

    def pack(self, vector: Tensor, ticket: Ticket) -> memoryview:
        """Round a vector to two bytes a number."""
        rounded = vector.to(getattr(torch, self.dtype)).contiguous()
        return rounded.view(torch.uint8).numpy().data if len(rounded) else memoryview(b"")

    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return the rounded numbers as float32."""
        if not layout.size:
            return torch.zeros(0)
        return torch.frombuffer(content, dtype=getattr(torch, self.dtype), count=layout.size).float()

    def nbytes(self, layout: Layout) -> int:
        """Length of the packed vector in bytes."""
        return 2 * layout.size


@dataclass(frozen=True)
class Int8(Codec):
    """A byte a number, and a scale per tensor.

    The 255 values of a tensor are evenly spaced from -max|x| to max|x|. Stochastic rounding to one of the two nearest makes the
    result unbiased; 0 and +-max|x| stay exact.
    """

    packs_weights = True

    @np.errstate(invalid="ignore", over="ignore")  # NaN and infinity arrive as such, and the server refuses them
    def pack(self, vector: Tensor, ticket: Ticket) -> memoryview:
        """Divide each tensor by its scale, and round."""
        segments, values = Segments.of_tensors(ticket.layout), vector.numpy()
        scales, quantizer = segments.maxima(values), Quantizer(MAX_INT8, ticket.bits)
        divisors, content = without_zeros(scales), np.empty(scales.nbytes + len(values), np.int8)
        content[: scales.nbytes] = scales.astype("<f4").view(np.int8)
        codes = content[scales.nbytes :]
        for block in blocks(len(values)):
            quantizer.quantize(segments, values[block], divisors, block, out=codes[block])
        return content.view(np.uint8).data

    @np.errstate(invalid="ignore")
    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Multiply each tensor by its scale."""
        segments, vector = Segments.of_tensors(layout), np.empty(layout.size, np.float32)
        scales = np.frombuffer(content, "<f4", len(segments))
        codes = np.frombuffer(content, np.int8, layout.size, offset=scales.nbytes)
        for block in blocks(layout.size):
            part = vector[block]
            part[:] = codes[block]
            part /= np.float32(MAX_INT8)
            segments.multiply(part, scales, block, out=part)
        return torch.from_numpy(vector)

    def nbytes(self, layout: Layout) -> int:
        """Length of the packed vector in bytes."""
        return 4 * len(Segments.of_tensors(layout)) + layout.size


class Quantizer:
    """Stochastic rounding of numbers to evenly spaced levels.

    Args:
        levels: levels between 0 and the scale, 1 to 127.
        generator: source of the random bits.
    """

    def __init__(self, levels: int, generator: np.random.Generator) -> None:
        self._steps = np.float32(256 * levels)
        self._generator = generator

    def quantize(
        self, segments: Segments, values: np.ndarray, scales: np.ndarray, block: slice, out: np.ndarray
    ) -> None:
        """Round one block so that the expectation stays.

        A number rounds up if a random number is below its fractional part. The first 8 bits of both decide, unless they are
        equal; then 24 more bits do. So the bias is below 2^-32 of a level, besides the rounding of float32.

        Args:
            segments: of the vector.
            values: the block, float32 of shape (n,), n <= BLOCK.
            scales: bound of the absolute values of each segment, > 0.
            block: position of the block in the vector.
            out: whole numbers from -levels to levels, int8 of shape (n,).
        """
        size = len(values)
        scaled, floor = scratch("scaled", np.float32, size), scratch("floor", np.float32, size)
        steps, fractions = scratch("steps", np.int16, size), scratch("fractions", np.uint8, size)
        segments.divide(values, scales, block, out=scaled)
        scaled *= self._steps
        np.floor(scaled, out=floor)
        np.copyto(steps, floor, casting="unsafe")
        np.copyto(fractions, steps, casting="unsafe")
        draws = random_bytes(self._generator, size)
        is_up, ties = draws < fractions, np.flatnonzero(draws == fractions)
        is_up[ties] = self._generator.random(len(ties), np.float32) < scaled[ties] - floor[ties]
        steps >>= 8
        np.copyto(out, steps, casting="unsafe")
        out += is_up.view(np.int8)


def random_bytes(generator: np.random.Generator, count: int) -> np.ndarray:
    """Random bytes, uint8 of shape (count,)."""
    return generator.bit_generator.random_raw(-(-count // 8)).view(np.uint8)[:count]


def without_zeros(scales: np.ndarray) -> np.ndarray:
    """The scales with 1 instead of 0, as divisors of zeros."""
    return np.where(scales == 0, np.float32(1), scales)
