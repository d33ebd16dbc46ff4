"""A client's reply in an exchange without updates."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from fedlit.aggregation.basis import find_basis
from fedlit.aggregation.channel.channel import Channel
from fedlit.aggregation.channel.codec import Float32
from fedlit.aggregation.channel.message import Turn
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.secure.vault import Vault
from fedlit.core.messages import ClientFailure, Exchange, ExchangeResult
from fedlit.core.tensors import Layout, Tensors


def make_turn(exchange: Exchange, client: int, vault: Vault) -> Turn:
    """The turn of one client of an exchange."""
    request, pending = exchange.requests.get(client, b""), exchange.pending.get(client, {})
    return Turn(exchange=exchange.name, request=request, pending=pending, vault=vault)


@dataclass
class Replies:
    """The growing replies of one job's clients.

    Args:
        channel: the channel, with a stage of several exchanges.
        failures: clients that did not reply.
    """

    channel: Channel
    failures: list[ClientFailure] = field(default_factory=list)
    _replies: dict[int, bytes] = field(default_factory=dict)
    _pending: dict[int, Tensors] = field(default_factory=dict)
    _seconds: float = 0.0

    def add(self, layout: Layout, turn: Turn, *, round: int, client: int, seed: int) -> None:
        """Make one client's reply: see `make_reply`."""
        start = time.perf_counter()
        reply, pending = make_reply(self.channel, layout, turn, round=round, client=client, seed=seed)
        self._seconds += time.perf_counter() - start
        self._replies[client], self._pending[client] = reply, pending

    def result(self) -> ExchangeResult:
        """The result of the job."""
        return ExchangeResult(self._replies, self._pending, tuple(self.failures), self._seconds)


def make_reply(
    channel: Channel, layout: Layout, turn: Turn, *, round: int, client: int, seed: int
) -> tuple[bytes, Tensors]:
    """Return a client's reply, and its tensors for the next exchange.

    Args:
        channel: the channel, with a stage of several exchanges.
        layout: layout of the updates.
        turn: the server's message.
        round: the round, counted from 0.
        client: id of the client.
        seed: the experiment's seed.

    Raises:
        ValueError: if the client refuses to answer.
    """
    stage = channel.secure or find_basis(channel.stages)
    assert stage is not None
    facts = {"round": round, "client": client, "seed": seed, "error_feedback": channel.error_feedback}
    its = received_layout(channel, layout)
    return stage.reply(Ticket(**facts, weight=0.0, stage=stage.name, layout=its, turn=turn))


def without_secure(channel: Channel) -> Channel:
    """The channel without its secure stage, which keeps no state of clients."""
    if channel.secure is None:
        return channel
    return replace(channel, stages=channel.stages[:-1], codec=Float32())


def received_layout(channel: Channel, layout: Layout) -> Layout:
    """Layout of the vector that the channel's last stage receives.

    Args:
        channel: a channel with a stage.
        layout: layout of the updates.
    """
    for stage in channel.stages[:-1]:
        layout = stage.encoded_layout(layout)
    return layout
