"""Pending secrets of a client, sealed by its vault."""

from __future__ import annotations

import torch

from fedlit.aggregation.channel.message import Turn
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.secure.protocol.wire import HEADER
from fedlit.core.tensors import Tensors

SEALED = "sealed"
"""Name of the pending tensor."""


def read_request(ticket: Ticket) -> tuple[Turn, tuple[int, int], bytes]:
    """Return a client's turn, and the server's message.

    Returns:
        The turn; the group's number and its number of clients; the message behind them.

    Raises:
        ValueError: if there is no message.
    """
    if ticket.turn is None:
        raise ValueError("a secure sum needs the server's message")
    group, clients = HEADER.unpack_from(ticket.turn.request)
    return ticket.turn, (group, clients), ticket.turn.request[HEADER.size :]


def seal_pending(ticket: Ticket, content: bytes) -> Tensors:
    """Seal a client's secrets for its next exchange."""
    assert ticket.turn is not None
    sealed = ticket.turn.vault.seal(content, _owner(ticket))
    return {SEALED: torch.frombuffer(bytearray(sealed), dtype=torch.uint8)}


def unseal_pending(ticket: Ticket) -> bytes:
    """Return the secrets that the client sealed in its last exchange.

    Raises:
        ValueError: if they were changed, or belong to another client or round.
    """
    assert ticket.turn is not None
    return ticket.turn.vault.unseal(ticket.turn.pending[SEALED].numpy().tobytes(), _owner(ticket))


def _owner(ticket: Ticket) -> bytes:
    return f"{ticket.round}/{ticket.client}".encode()
