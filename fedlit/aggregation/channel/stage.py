"""The joint for projections, privacy mechanisms and encryption: a channel's stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from fedlit.aggregation.channel.tickets import SumTicket, Ticket
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout, Tensors

if TYPE_CHECKING:
    from fedlit.aggregation.privacy.accounting.accountant import Accountant
    from fedlit.aggregation.privacy.skellam.grid import SkellamGrid


class Order(IntEnum):
    """The order of stages on the client.

    Clipping comes after lossy projection, so that a projection cannot lengthen a clipped vector.
    """

    PROJECT = 1
    CLIP = 2
    PROTECT = 3


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
    def needs_exact_clip(self) -> bool:
        """True if nothing may change a clipped message; by default False.

        A mask, for example, needs vectors that are rounded to integers, and rounding can lengthen them.
        """
        return False

    @property
    def hides_clients(self) -> bool:
        """True if the record may hold nothing about single clients.

        It then lacks the clients' metrics and the drift. It is False by default.
        """
        return False

    @property
    def zeroes_invalid(self) -> bool:
        """True if an update that is not finite counts as zeros.

        Otherwise, and by default, its client fails. A mechanism of differential privacy says True: whether a client fails may
        not depend on its data.
        """
        return False

    @property
    def accountant(self) -> Accountant | None:
        """The accountant of a bound stage's releases.

        None, the default, is that of a stage without differential privacy.
        """
        return None

    @property
    def makes_grid(self) -> bool:
        """True if the bound stage's `grid` is that of a secure sum.

        It is False by default: a secure sum has a grid of its own, without noise.
        """
        return False

    @property
    def grid(self) -> SkellamGrid | None:
        """The grid on which a secure sum rounds and adds noise.

        It is None by default, and before `bind`.
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
