"""Error feedback: what a codec lost is added to the next update.

Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019,
https://arxiv.org/abs/1901.09847, Algorithm 2. The residual is client state: it changes only if the update is in the sum.
"""

from __future__ import annotations

from torch import Tensor

from fedlit.aggregation.channel.codec import Codec
from fedlit.aggregation.channel.tickets import Ticket
from fedlit.core.tensors import Tensors

RESIDUAL = "residual"
"""Name of the part of an update that was not sent, among the tensors of a codec or a stage in a client state."""


def pack_with_feedback(
    codec: Codec, vector: Tensor, ticket: Ticket
) -> tuple[bytes | bytearray | memoryview, Tensor, dict[str, Tensor]]:
    """Pack a vector, under error feedback with its residual.

    Args:
        codec: a lossy codec.
        vector: float32 of shape (d,).
        ticket: facts about the message; `own` has the residual of the client's last update.

    Returns:
        The bytes, the vector that the server will unpack, and the client's tensors for its next round.
    """
    vector = with_residual(vector, ticket)
    content = codec.pack(vector, ticket)
    sent = codec.unpack(memoryview(bytearray(content)), ticket.layout)  # torch wants writable memory
    return content, sent, {RESIDUAL: vector - sent} if ticket.error_feedback else {}


def with_residual(vector: Tensor, ticket: Ticket) -> Tensor:
    """The vector, plus the client's residual under error feedback."""
    residual: Tensors = ticket.own if ticket.error_feedback else {}
    return vector + residual[RESIDUAL] if RESIDUAL in residual else vector
