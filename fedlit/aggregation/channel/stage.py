"""The joint for projections, privacy mechanisms and encryption: a channel's stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar
from zlib import crc32

import numpy as np
from torch import Tensor

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import StageState
from fedlit.core.streams import Purpose, stream
from fedlit.core.tensors import Layout, Tensors

if TYPE_CHECKING:
    from fedlit.aggregation.privacy.accounting.accountant import Accountant


class Order(IntEnum):
    """The order of stages on the client.

    Clipping comes after lossy projection, so that a projection cannot lengthen a clipped vector.
    """

    PROJECT = 1
    CLIP = 2
    PROTECT = 3


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Facts about one message, for the stages that encode it.

    Args:
        round: the round, counted from 0.
        client: id of the client.
        seed: the experiment's seed.
        weight: weight of the client in the average.
        stage: name of the stage.
        layout: layout of the vector that the stage receives.
        shared: tensors of the stage that each client receives.
        own: tensors of the stage that this client returned last; empty in its first round.
        purpose: purpose of the random numbers.
        error_feedback: whether the client adds what was lost to its next update.
    """

    round: int
    client: int
    seed: int
    weight: float
    stage: str
    layout: Layout = field(default_factory=lambda: Layout(()))
    shared: Tensors = field(default_factory=dict)
    own: Tensors = field(default_factory=dict)
    purpose: Purpose = Purpose.CHANNEL
    error_feedback: bool = False

    @cached_property
    def generator(self) -> np.random.Generator:
        """The random numbers of this stage for this round and client."""
        return stream(self.seed, self.purpose, self.round, self.client, crc32(self.stage.encode()))

    @cached_property
    def common_generator(self) -> np.random.Generator:
        """Random numbers of this stage that a round's clients share."""
        return _common(self.seed, self.round, self.stage)


@dataclass(frozen=True, kw_only=True)
class SumTicket:
    """Facts about a round's sum, for the stages that open it.

    Args:
        round: the round, counted from 0.
        seed: the experiment's seed.
        clients: ids of the clients that were asked to train, also of those that failed.
        updates: number of updates in the sum.
        clipped: number of them that a clip made shorter.
        weight: sum of the weights.
        stage: name of the stage.
        layout: layout of the vectors that the stage made.
    """

    round: int
    seed: int
    clients: tuple[int, ...]
    updates: int
    clipped: int
    weight: float
    stage: str = ""
    layout: Layout = field(default_factory=lambda: Layout(()))

    @cached_property
    def common_generator(self) -> np.random.Generator:
        """Random numbers of this stage that a round's clients share."""
        return _common(self.seed, self.round, self.stage)

    @cached_property
    def noise_generator(self) -> np.random.Generator:
        """The random numbers of this stage for noise on this round's sum."""
        return stream(self.seed, Purpose.SUM_NOISE, self.round, key=crc32(self.stage.encode()))


def _common(seed: int, round: int, stage: str) -> np.random.Generator:
    return stream(seed, Purpose.COMMON, round, key=crc32(stage.encode()))


class Stage(ABC):
    """One stage of the channel: a vector to a vector.

    Encoded vectors are added as they are. The stage acts on their sum when the server opens it. `encode` is abstract. The other
    methods have defaults for a stage that keeps the vector's length and needs no state.

    Attributes:
        order: position among the stages; the channel sorts by it.
    """

    order: ClassVar[Order]

    @property
    def name(self) -> str:
        """Name of the stage in states; by default its lower-case class name."""
        return type(self).__name__.lower()

    @property
    def denominator(self) -> float | None:
        """Divisor of the opened sum; None for the sum of the weights.

        None is the default. A divisor that does not depend on the updates also takes weights of 0 and 1 alone.
        """
        return None

    @property
    def releases_empty(self) -> bool:
        """True if a round without any update is opened, too.

        It is False by default.
        """
        return False

    @property
    def hides_clients(self) -> bool:
        """True if the record may hold nothing about single clients.

        It then lacks the clients' metrics and the drift. It is False by default.
        """
        return False

    @property
    def accountant(self) -> Accountant | None:
        """The accountant of a bound stage's releases.

        None, the default, is that of a stage without differential privacy.
        """
        return None

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    def bind(self, facts: FederationFacts) -> Stage:
        """The stage for one federation; by default the same stage.

        Raises:
            ConfigError: if the stage does not suit the federation.
        """
        return self

    def init(self, layout: Layout) -> StageState:
        """Make the stage's part of the server state; empty by default.

        Args:
            layout: layout of the vector that the stage receives.
        """
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

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Act once on the sum of a round.

        Args:
            total: sum of weight * encoded vector, float64 of shape (d,).
            ticket: facts about the sum.
            state: the stage's part of the server state.

        Returns:
            The opened sum, and the new part of the server state.
        """
        return total, state

    def lose(self, ticket: SumTicket, state: StageState) -> StageState:
        """The stage's part of the server state after a lost round.

        The sum of a lost round is not opened. By default the part stays the same.
        """
        return state

    def encoded_layout(self, layout: Layout) -> Layout:
        """Layout of an encoded vector; by default that of the vector."""
        return layout

    def metrics(self, state: StageState) -> Mapping[str, float]:
        """Figures of the stage for the round's record; none by default.

        Args:
            state: the stage's part of the server state after the round.
        """
        return {}

    def statement(self) -> str | None:
        """A sentence of the summary: what the stage protects.

        None, the default, is no sentence.
        """
        return None


class Clip(Stage):
    """A stage that only makes vectors shorter.

    The client sends the factor with its message, so the codec's bytes stay as they are, and the product is exact in float64.
    """

    order = Order.CLIP

    @abstractmethod
    def factor(self, vector: Tensor, ticket: Ticket) -> float:
        """The number in (0, 1] that the vector is multiplied by.

        Args:
            vector: float32 of shape (d,), as the server will unpack it.
            ticket: facts about the message.
        """

    def encode(self, vector: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Multiply the vector by the factor."""
        return vector * self.factor(vector, ticket), {}
