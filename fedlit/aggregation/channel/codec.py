"""The joint for codecs, which make bytes of vectors.

Without another codec a vector is sent as float32 numbers. Only codecs and
`core.serialization` know how named tensors become bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from fedlit.aggregation.channel.tickets import SumTicket, Ticket
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.tensors import Layout


class Codec(ABC):
    """The format of an update's bytes; a channel has exactly one.

    Attributes:
        lossless: True if `unpack` returns the packed numbers exactly.
        packs_weights: True if the codec also suits a model's weights, which the server sends, and not updates alone.
    """

    lossless: ClassVar[bool] = False
    packs_weights: ClassVar[bool] = False

    @property
    def is_plain(self) -> bool:
        """True if the bytes are the memory of the vector.

        It is False by default.
        """
        return False

    @property
    def linear(self) -> bool:
        """False if `open` replaces the sum, as a majority vote does."""
        return True

    @property
    def contracts(self) -> bool:
        """False if the error can be longer than the vector.

        Error feedback would then add more in each round.
        """
        return True

    @property
    def name(self) -> str:
        """Name of the codec; by default its lower-case class name."""
        return type(self).__name__.lower()

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    @abstractmethod
    def pack(self, vector: Tensor, ticket: Ticket) -> bytes | bytearray | memoryview:
        """Pack a vector.

        Args:
            vector: float32 of shape (d,), finite; the codec must not change it.
            ticket: facts about the message: its random numbers, and the layout of the vector's tensors.
        """

    @abstractmethod
    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return the packed vector, float32 of shape (d,).

        Args:
            content: the bytes that `pack` returned.
            layout: the layout of the vector's tensors.
        """

    def open(self, total: Tensor, ticket: SumTicket) -> Tensor:
        """Act once on a round's sum; by default return it.

        It is called before the stages open the sum.

        Args:
            total: sum of weight * unpacked vector, float64 of shape (d,).
            ticket: facts about the sum.
        """
        return total

    @abstractmethod
    def nbytes(self, layout: Layout) -> int:
        """Maximum length in bytes of a packed vector of a layout."""


class Float32(Codec):
    """Four bytes a number, little-endian."""

    lossless = True
    packs_weights = True

    @property
    def is_plain(self) -> bool:
        """True; False in a subclass, which may pack otherwise."""
        return type(self) is Float32

    def pack(self, vector: Tensor, ticket: Ticket) -> memoryview:
        """The memory of a float32 vector."""
        return vector.contiguous().numpy().data.cast("B") if len(vector) else memoryview(b"")

    def unpack(self, content: memoryview, layout: Layout) -> Tensor:
        """Return the vector, which shares memory with the message."""
        return torch.frombuffer(content, dtype=torch.float32, count=layout.size) if layout.size else torch.zeros(0)

    def nbytes(self, layout: Layout) -> int:
        """Length of the packed vector in bytes."""
        return 4 * layout.size
