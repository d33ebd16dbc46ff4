"""Ciphertexts as the vectors of the channel: their bytes, and their sum."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.secure.homomorphic.bfv import BFVParameters, add_ciphertexts, measure_sizes
from fedlit.aggregation.secure.protocol.wire import ProtocolError
from fedlit.core.tensors import Layout

LENGTH = struct.Struct("<I")
"""Before each part of a message: its length in bytes."""

COUNTER = 1
"""Integers behind the quantised update: a 1, so that a sum holds the number of its updates."""


def pack_parts(parts: Sequence[bytes]) -> bytes:
    """Pack byte strings, each behind its length."""
    return b"".join(piece for part in parts for piece in (LENGTH.pack(len(part)), part))


def unpack_parts(content: bytes) -> list[bytes]:
    """Return the byte strings of `pack_parts`.

    Raises:
        ProtocolError: if the content ends within a part.
    """
    parts, start = [], 0
    while start < len(content):
        if start + LENGTH.size > len(content):
            raise ProtocolError("a message ends within a length")
        (length,) = LENGTH.unpack_from(content, start)
        start += LENGTH.size + length
        if start > len(content):
            raise ProtocolError("a message ends within a part")
        parts.append(content[start - length : start])
    return parts


def to_vector(content: bytes) -> Tensor:
    """The bytes as a tensor, uint8."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def to_bytes(vector: Tensor) -> bytes:
    """The bytes of a tensor of `to_vector`."""
    return vector.numpy().tobytes()


@dataclass(frozen=True)
class CiphertextCodec(Codec):
    """Ciphertexts behind their lengths.

    Args:
        parameters: the parameters of the encryption.
    """

    parameters: BFVParameters
    lossless = True

    def pack(self, vector: Tensor, ticket: Ticket) -> memoryview:
        """The memory of a vector of bytes."""
        return vector.numpy().data

    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return the vector, which shares memory with the message."""
        return torch.frombuffer(content, dtype=torch.uint8)

    def nbytes(self, layout: Layout) -> int:
        """Length of the ciphertexts of a layout's integers, in bytes."""
        count = self.parameters.ciphertexts(layout.size + COUNTER)
        return count * (LENGTH.size + measure_sizes(self.parameters).ciphertext)


@dataclass(frozen=True)
class CiphertextSum(Aggregator):
    """The sum of encrypted vectors: exact, whatever the order.

    The weight is part of each vector.

    Args:
        parameters: the parameters of the encryption.
    """

    parameters: BFVParameters

    def add(self, total: Tensor | None, vector: Tensor, weight: float) -> Tensor:
        """Add a vector, whose client has applied its weight."""
        return vector if total is None else self.merge(total, vector)

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The sum of both."""
        first, second = (unpack_parts(to_bytes(vector)) for vector in (left, right))
        return to_vector(pack_parts(add_ciphertexts(self.parameters, first, second)))

    def finish(self, total: Tensor, weight: float) -> Tensor:
        """Raise ValueError: without the secret key there is no mean."""
        raise ValueError("an encrypted sum cannot be divided: the keepers of the key open it first")
