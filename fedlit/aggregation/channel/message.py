"""A client's message, and the client states of stages."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedlit.aggregation.secure.vault import Vault
from fedlit.core.tensors import Groups, Tensors

CHANNEL_PREFIX = "channel/"
"""Prefix of the groups in a client state that belong to the channel's stages."""

NUMBER = struct.Struct("<d")
"""A number in the header of a message, a float64: the client's weight, and the factor of the clips."""


@dataclass(frozen=True)
class Message:
    """A decoded message.

    Args:
        vector: the vector that is added to the sum, float64 of shape (d,).
        weight: weight of the client.
        clipped: whether a clip made the vector shorter.
        unpacked: the same numbers as the codec returned them; None if a clip changed them.
    """

    vector: Tensor
    weight: float
    clipped: bool = False
    unpacked: Tensor | None = None

    @property
    def numbers(self) -> Tensor:
        """The vector as the codec returned it; float64 after a clip."""
        return self.vector if self.unpacked is None else self.unpacked


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A client's turn in one exchange with the server.

    Args:
        exchange: name of the exchange.
        request: the server's message.
        pending: tensors that the client returned in the exchange before, in the same round.
        vault: seals what is pending.
    """

    exchange: str
    request: bytes
    pending: Tensors = field(default_factory=dict)
    vault: Vault = field(default_factory=Vault)


def channel_states(client_state: Groups) -> dict[str, Tensors]:
    """Each stage's tensors in a client state, by the stage's name."""
    return {
        group.removeprefix(CHANNEL_PREFIX): tensors
        for group, tensors in client_state.items()
        if group.startswith(CHANNEL_PREFIX)
    }


def pack_channel_states(own: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Each stage's tensors as groups of a client state.

    A stage without tensors has no group.
    """
    return {f"{CHANNEL_PREFIX}{stage}": tensors for stage, tensors in own.items() if tensors}
