"""Float32 packing: an update's vector as its numbers, little-endian.

Only this module and `core.serialization` know how named tensors become bytes.
"""

from __future__ import annotations

import struct

import torch
from torch import Tensor

from fedlit.aggregation.stage import Packing

HEADER = struct.Struct("<d")
"""The header of a message: the client's weight, a float64."""


class Float32Packing(Packing):
    """Four bytes a number."""

    def pack(self, vector: Tensor) -> memoryview:
        """The memory of a float32 vector."""
        return vector.contiguous().numpy().data.cast("B") if len(vector) else memoryview(b"")

    def unpack(self, content: memoryview, size: int) -> Tensor:
        """Return the vector, which shares memory with the message."""
        return torch.frombuffer(content, dtype=torch.float32, count=size) if size else torch.zeros(0)

    def nbytes(self, size: int) -> int:
        """Length of the packed vector in bytes."""
        return 4 * size
