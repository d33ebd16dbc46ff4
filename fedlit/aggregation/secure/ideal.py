"""Secure aggregation without its cryptography, for large simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.secure.protocol.graph import Thresholds
from fedlit.aggregation.secure.protocol.setting import LostGroup
from fedlit.aggregation.secure.protocol.wire import messages_nbytes
from fedlit.aggregation.secure.quantizer import RingQuantizer
from fedlit.aggregation.secure.ring import RingSum, to_array, to_tensor
from fedlit.aggregation.secure.secure_stage import GroupSession
from fedlit.aggregation.secure.sums import IntegerSum
from fedlit.core.tensors import Layout, Tensors


@dataclass(frozen=True)
class IdealSum(IntegerSum):
    """The ideal functionality: the sum that secure aggregation computes.

    Quantisation, ring, groups and thresholds are those of `SecAgg`, and so are the sums, to the bit. Nothing is masked: whoever
    runs the simulation could read each update. The bytes of the missing exchanges are predicted. The other
    arguments are those of `IntegerSum`.

    Args:
        neighbours: k of `SecAgg`, for the predicted bytes.
    """

    is_simulated = True
    takes_noise = True

    neighbours: int | None = None

    def conceal(self, integers: np.ndarray, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Return the integers as they are."""
        return to_tensor(integers), {}

    def statement(self) -> str:
        """The missing protection."""
        return "secure aggregation is simulated, not executed: the sums are those of secagg, and nothing was masked"

    def begin(self, group: int, clients: Sequence[int], *, round: int, seed: int, layout: Layout) -> GroupSession:
        """Begin the server's half for one group."""
        try:
            return _Session(self.quantizer, clients, self.thresholds(len(clients)))
        except ValueError as error:
            raise LostGroup(str(error)) from None

    def exchange_nbytes(self, clients: int, layout: Layout) -> tuple[int, int]:
        """Bytes of messages that `SecAgg` would need: up, down."""
        return messages_nbytes(clients, self.neighbours)


class _Session(GroupSession):
    """The group's clients and its threshold."""

    def __init__(self, quantizer: RingQuantizer, clients: Sequence[int], thresholds: Thresholds) -> None:
        self._quantizer, self._clients, self._thresholds = quantizer, tuple(clients), thresholds
        self._alive: set[int] = set()
        self._total: Tensor | None = None

    def requests(self) -> Mapping[int, bytes]:
        """An empty message to each client."""
        return dict.fromkeys(self._clients, b"")

    def receive(self, client: int, reply: bytes) -> None:
        """Count a client whose update arrived."""
        self._alive.add(client)

    def close(self) -> None:
        """End the only exchange."""
        if len(self._alive) < self._thresholds.group:
            problem = f"{len(self._alive)} of {len(self._clients)} clients sent their update"
            raise LostGroup(f"{problem}, and {self._thresholds.group} are needed")

    def add(self, total: Tensor) -> None:
        """Add integers."""
        self._total = total if self._total is None else RingSum().merge(self._total, total)

    def finish(self) -> Tensor:
        """Return the sum as signed integers."""
        assert self._total is not None
        return torch.from_numpy(self._quantizer.signed(to_array(self._total)))
