"""The joint for projections onto a basis that clients find together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fedlit.aggregation.channel.codec import Float32
from fedlit.aggregation.channel.message import NUMBER, Message
from fedlit.aggregation.channel.stage import Order, Stage
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.tensors import Layout, Tensors

WEIGHT = "weight"
"""Name of the client's weight among its pending tensors, float64 of shape ()."""


class BasisStage(Stage):
    """A stage with two exchanges: a basis, then the updates in it.

    `encode` is the client's half of the first exchange. It returns the vector for the basis, and pending tensors, with the
    weight under `WEIGHT`: the client gets them back in the second exchange. `encoded_layout` is the layout of that vector. The
    second message alone is in the round's sum. So a client that is lost after the first exchange has no part in the sum, and
    the weights are those of the clients in it.

    `open` receives the basis, and behind it the sum of weight * second message.

    Attributes:
        exchanges: names of the two exchanges.
    """

    order = Order.PROJECT
    exchanges: ClassVar[tuple[str, str]] = ("basis", "factors")

    @abstractmethod
    def make_basis(self, total: Tensor, layout: Layout) -> Tensor:
        """The server's message to the clients of the first exchange.

        Args:
            total: sum of weight * vector of the first exchange, float64 of shape (b,).
            layout: layout of the vector that the stage receives.

        Returns:
            float32 of shape (b,).
        """

    @abstractmethod
    def express(self, basis: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """The client's half of the second exchange.

        Args:
            basis: the server's message, float32 of shape (b,).
            ticket: facts about the message; its `turn` has the pending tensors.

        Returns:
            The update in the basis, float32 of the length of `reply_layout`, and the client's own tensors for its next round.
        """

    @abstractmethod
    def reply_layout(self, layout: Layout) -> Layout:
        """Layout of the second message.

        Args:
            layout: layout of the vector that the stage receives.
        """

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Yield an error if the aggregator needs each update."""
        if facts.keeps_messages:
            problem = "finds a basis of the sum of the updates, and the aggregator needs them one by one"
            hint = "leave out `aggregator`: the default is the weighted mean"
            yield ConfigError("compression", self.name, problem, hint)

    def reply(self, ticket: Ticket) -> tuple[bytes, Tensors]:
        """The bytes of the second message, and the client's own tensors."""
        assert ticket.turn is not None
        basis = Float32().unpack(memoryview(bytearray(ticket.turn.request)), self.encoded_layout(ticket.layout))
        vector, own = self.express(basis, ticket)
        weight = float(ticket.turn.pending[WEIGHT])
        return NUMBER.pack(weight) + bytes(Float32().pack(vector, ticket)), own

    def read_reply(self, reply: bytes, layout: Layout) -> Message:
        """The second message, from its bytes."""
        content = memoryview(bytearray(reply))
        vector = Float32().unpack(content[NUMBER.size :], self.reply_layout(layout))
        return Message(vector, *NUMBER.unpack_from(content))

    def exchange_nbytes(self, layout: Layout) -> tuple[int, int]:
        """Bytes of one client's messages besides the first.

        They are a pair: to the server, and from it.

        Args:
            layout: layout of the vector that the stage receives.
        """
        up = NUMBER.size + Float32().nbytes(self.reply_layout(layout)) if layout.size else 0
        return up, Float32().nbytes(self.encoded_layout(layout))


def find_basis(stages: Sequence[Stage]) -> BasisStage | None:
    """The stage with two exchanges among others; None without one."""
    return next((stage for stage in stages if isinstance(stage, BasisStage)), None)


def pending_weight(weight: float) -> Tensor:
    """A client's weight as a tensor among the pending ones."""
    return torch.tensor(weight, dtype=torch.float64)
