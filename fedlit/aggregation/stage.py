"""The joint for codecs, privacy mechanisms and encryption: a channel's stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import ClassVar
from zlib import crc32

import numpy as np
from torch import Tensor

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import StageState
from fedlit.core.streams import Purpose, stream
from fedlit.core.tensors import Layout, Tensors


class Order(IntEnum):
    """The order of stages on the client.

    Clipping comes after lossy projection, so that a projection cannot lengthen a clipped vector.
    """

    PROJECT = 1
    CLIP = 2
    PROTECT = 3
    PACK = 4


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Facts about one message, for the stages that encode it.

    Args:
        round: the round, counted from 0.
        client: id of the client.
        seed: the experiment's seed.
        weight: weight of the client in the average.
        stage: name of the stage.
        shared: tensors of the stage that each client receives.
        own: tensors of the stage that this client returned last; empty in its first round.
    """

    round: int
    client: int
    seed: int
    weight: float
    stage: str
    shared: Tensors = field(default_factory=dict)
    own: Tensors = field(default_factory=dict)

    @cached_property
    def generator(self) -> np.random.Generator:
        """The random numbers of this stage for this round and client."""
        return stream(self.seed, Purpose.CHANNEL, self.round, self.client, crc32(self.stage.encode()))


class Stage(ABC):
    """One stage of the channel.

    It encodes on the client and decodes on the server. `encode` is abstract. The other methods have defaults for a stage that
    keeps the vector's length and needs no state.

    Attributes:
        order: position among the stages; the channel sorts by it.
        linear: True if encoded vectors may be added before they are decoded; `decode` is then never called.
        exchanges: number of exchanges with the server; only 1 is supported so far.
    """

    order: ClassVar[Order]
    linear: ClassVar[bool] = True
    exchanges: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """Name of the stage in states; by default its lower-case class name."""
        return type(self).__name__.lower()

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    def init(self, layout: Layout) -> StageState:
        """Make the stage's part of the server state; empty by default."""
        return StageState()

    @abstractmethod
    def encode(self, vector: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Encode one client's update.

        Args:
            vector: float32 of shape (d,); the stage may overwrite it.
            ticket: facts about the message.

        Returns:
            The encoded vector, and the client's own tensors for its next round.
        """

    def decode(self, vector: Tensor) -> Tensor:
        """Decode one message before it is added.

        It is not called if `linear`; a channel refuses a linear stage that overrides it.
        """
        return vector

    def open(self, total: Tensor, cohort: int, state: StageState) -> tuple[Tensor, StageState]:
        """Act once on the sum of a round.

        Args:
            total: sum of weight * encoded vector, float64 of shape (d,).
            cohort: number of updates in the sum.
            state: the stage's part of the server state.

        Returns:
            The opened sum, and the new part of the server state.
        """
        return total, state

    def size(self, size: int) -> int:
        """Length of an encoded vector; by default that of the vector."""
        return size


class Packing(ABC):
    """The last stage: a vector to bytes, and back.

    A packing should lose nothing: the stages before it, such as clipping, cannot see its rounding.
    """

    order: ClassVar[Order] = Order.PACK

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    @abstractmethod
    def pack(self, vector: Tensor) -> bytes | bytearray | memoryview:
        """Pack a float32 vector of shape (d,)."""

    @abstractmethod
    def unpack(self, content: memoryview, size: int) -> Tensor:
        """Return the packed float32 vector of shape (size,)."""

    @abstractmethod
    def nbytes(self, size: int) -> int:
        """Maximum length in bytes of a packed vector of length `size`."""
