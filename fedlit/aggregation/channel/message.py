"""A client's message, and the client states of stages."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
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
        numbers: the vector, shape (d,): float32 as the codec returned it, float64 after a clip, integers in a secure sum.
        weight: weight of the client.
        clipped: whether a clip made the vector shorter.
    """

    numbers: Tensor
    weight: float
    clipped: bool = False

    @property
    def vector(self) -> Tensor:
        """The vector that is added to the sum.

        It is float64, or of integers in a secure sum.
        """
        return self.numbers.double() if self.numbers.dtype == torch.float32 else self.numbers


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
