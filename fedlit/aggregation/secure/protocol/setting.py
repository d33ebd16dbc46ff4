"""The figures of one run of the protocol, which all parties know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedlit.aggregation.secure.protocol.graph import Thresholds
from fedlit.aggregation.secure.protocol.wire import ProtocolError

ALIVE, LOST = b"\1", b"\0"
"""Flags of a client in the request for shares: its masked vector arrived, or did not."""


class LostGroup(Exception):
    """A group has no sum: too few clients, or wrong secrets."""


@dataclass(frozen=True)
class ProtocolSetting:
    """The figures of one group in one round.

    Args:
        round: the round, counted from 0.
        group: number of the group in the round, counted from 0.
        length: d, numbers in a masked vector.
        ring_bits: 32 or 64; sums are modulo 2^ring_bits.
        thresholds: clients that the group needs.
    """

    round: int
    group: int
    length: int
    ring_bits: int
    thresholds: Thresholds

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a masked vector."""
        return np.dtype(f"<u{self.ring_bits // 8}")

    def require_same_group(self, client: int, told: tuple[int, int]) -> None:
        """Raise ProtocolError unless a client still has the group of exchange 1.

        Args:
            client: id of the client.
            told: number and size of the group that the server named in exchange 1.
        """
        now = (self.group, self.thresholds.clients)
        if now != told:
            names = "group {0} of {1} clients"
            raise ProtocolError(f"client {client} was in {names.format(*told)}, and is now in {names.format(*now)}")

    def info(self, purpose: str, *clients: int) -> bytes:
        """Bytes that bind a key to purpose, round, group and clients."""
        return f"fedlit/secagg/{purpose}/{self.round}/{self.group}/{'/'.join(map(str, clients))}".encode()
