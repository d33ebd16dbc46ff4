"""Secure aggregation by pairwise masks, as a stage of the channel.

Source: see `protocol.client` and, for `neighbours`, `protocol.graph`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.secure.pending import read_request, seal_pending, unseal_pending
from fedlit.aggregation.secure.protocol.client import (
    ClientSecrets,
    advertise_keys,
    mask_vector,
    reveal_shares,
    share_keys,
)
from fedlit.aggregation.secure.protocol.graph import Thresholds, make_neighbourhoods, make_thresholds
from fedlit.aggregation.secure.protocol.server import SecureAggregationServer
from fedlit.aggregation.secure.protocol.setting import LostGroup, ProtocolSetting
from fedlit.aggregation.secure.protocol.wire import HEADER, messages_nbytes
from fedlit.aggregation.secure.ring import to_array, to_tensor
from fedlit.aggregation.secure.secure_stage import GroupSession
from fedlit.aggregation.secure.sums import IntegerSum
from fedlit.core.errors import raise_errors, require
from fedlit.core.streams import Purpose, stream
from fedlit.core.tensors import Layout, Tensors


@dataclass(frozen=True)
class SecAgg(IntegerSum):
    """Secure aggregation of Bonawitz et al. (2017).

    The server and the clients are honest but curious. The other arguments are those of `IntegerSum`.

    Args:
        neighbours: k, an even number: clients with which each client shares masks (Bell et al. 2020); None for all.
    """

    before = ("advertise_keys", "share_keys")
    carrier = "masked_input"
    after = ("unmasking",)
    takes_noise = True

    neighbours: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        k = self.neighbours
        is_even = k is None or (isinstance(k, int) and k >= 2 and k % 2 == 0)
        raise_errors(require(is_even, "neighbours", k, "must be an even number of at least 2, or null"))

    def thresholds(self, clients: int) -> Thresholds:
        """The thresholds of a group.

        Raises:
            ValueError: if the group is too small.
        """
        return make_thresholds(clients, self.threshold, self.neighbours, self.survivors)

    def statement(self) -> str:
        """The protection, and whom it trusts."""
        part = "group" if self.neighbours is None else f"neighbourhood of {self.neighbours + 1} clients"
        return (
            "secure aggregation: the server sees sums of groups, no single update; all parties follow the protocol, and fewer "
            f"clients of a {part} than its threshold share what they know with the server"
        )

    def describe(self, cohort: int) -> str:
        """The groups of a cohort, and the losses that they survive."""
        described, smallest = super().describe(cohort), min(map(len, self.groups(range(cohort))))
        if self.neighbours is None or not self.survivors <= smallest > self.neighbours + 1:
            return described
        needed = self.thresholds(smallest).neighbourhood
        return f"{described}; in each neighbourhood of {self.neighbours + 1} clients {needed} must answer, too"

    def begin(self, group: int, clients: Sequence[int], *, round: int, seed: int, layout: Layout) -> GroupSession:
        """Begin the server's half for one group."""
        try:
            setting = self._setting(round, group, len(clients), layout)
        except ValueError as error:
            raise LostGroup(str(error)) from None
        generator = stream(seed, Purpose.COMMON, round, client=group, key=crc32(self.name.encode()))
        return _Session(
            self, setting, SecureAggregationServer(setting, make_neighbourhoods(clients, self.neighbours, generator))
        )

    def reply(self, ticket: Ticket) -> tuple[bytes, Tensors]:
        """Answer AdvertiseKeys, ShareKeys or Unmasking."""
        turn, (group, clients), request = read_request(ticket)
        setting = self._setting(ticket.round, group, clients, ticket.layout)
        if turn.exchange == "advertise_keys":
            secrets, reply = advertise_keys(ticket.client, setting)
        elif turn.exchange == "share_keys":
            secrets, reply = share_keys(self._load(ticket), setting, request)
        else:
            secrets, reply = reveal_shares(self._load(ticket), setting, request)
        return reply, self._dump(ticket, secrets)

    def conceal(self, integers: np.ndarray, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Mask the integers: MaskedInput."""
        _, (group, clients), request = read_request(ticket)
        setting = self._setting(ticket.round, group, clients, ticket.layout)
        secrets, masked = mask_vector(self._load(ticket), setting, request, integers)
        return to_tensor(masked), self._dump(ticket, secrets)

    def exchange_nbytes(self, clients: int, layout: Layout) -> tuple[int, int]:
        """Bytes of a client's messages besides the update: up, down."""
        return messages_nbytes(clients, self.neighbours)

    def _setting(self, round: int, group: int, clients: int, layout: Layout) -> ProtocolSetting:
        return ProtocolSetting(round, group, self.encoded_layout(layout).size, self.ring, self.thresholds(clients))

    def _load(self, ticket: Ticket) -> ClientSecrets:
        return ClientSecrets.load(unseal_pending(ticket))

    def _dump(self, ticket: Ticket, secrets: ClientSecrets) -> Tensors:
        return seal_pending(ticket, secrets.dump())


class _Session(GroupSession):
    """The server's half of one group."""

    def __init__(self, stage: SecAgg, setting: ProtocolSetting, server: SecureAggregationServer) -> None:
        self._stage, self._server = stage, server
        self._total: Tensor | None = None
        self._header = HEADER.pack(setting.group, setting.thresholds.clients)

    def requests(self) -> Mapping[int, bytes]:
        """The message of the open exchange to each client that takes part."""
        return {client: self._header + request for client, request in self._server.requests().items()}

    def receive(self, client: int, reply: bytes) -> None:
        """Take a client's reply in the open exchange."""
        self._server.receive(client, reply)

    def close(self) -> None:
        """End the open exchange."""
        self._server.close()

    def add(self, total: Tensor) -> None:
        """Add masked vectors."""
        self._total = total if self._total is None else self._stage.aggregator.merge(self._total, total)

    def finish(self) -> Tensor:
        """Remove the masks."""
        assert self._total is not None
        unmasked = self._server.unmask(to_array(self._total))
        return torch.from_numpy(self._stage.quantizer.signed(unmasked))
