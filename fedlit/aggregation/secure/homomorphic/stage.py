"""A sum under homomorphic encryption, as a stage of the channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from fedlit.aggregation.channel.tickets import Ticket
from fedlit.aggregation.secure.homomorphic.bfv import PARAMETERS, BFVParameters
from fedlit.aggregation.secure.homomorphic.ciphertexts import (
    CiphertextCodec,
    CiphertextSum,
    to_bytes,
    to_vector,
    unpack_parts,
)
from fedlit.aggregation.secure.homomorphic.client import (
    KeeperSecrets,
    SumSetting,
    advertise_key,
    deal_key,
    decrypt_sum,
    encrypt_vector,
)
from fedlit.aggregation.secure.homomorphic.server import SUM_EXCHANGES, HomomorphicServer, sum_messages_nbytes
from fedlit.aggregation.secure.pending import read_request, seal_pending, unseal_pending
from fedlit.aggregation.secure.protocol.graph import MIN_CLIENTS
from fedlit.aggregation.secure.protocol.setting import LostGroup, ProtocolSetting
from fedlit.aggregation.secure.protocol.wire import HEADER
from fedlit.aggregation.secure.secure_stage import GroupSession
from fedlit.aggregation.secure.sums import IntegerSum
from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least, require_choice
from fedlit.core.facts import FederationFacts
from fedlit.core.streams import Purpose, stream
from fedlit.core.tensors import Layout, Tensors


@dataclass(frozen=True)
class HomomorphicSum(IntegerSum):
    """The sum of quantised updates under the BFV encryption.

    The server adds ciphertexts. Some clients of a group keep the secret key, and open the sum. Quantisation, groups and
    thresholds are those of `SecAgg`, and so are the sums, to the bit. The server and the clients are honest but curious, and no
    keeper gives its key to the server. The other arguments are those of `IntegerSum`.

    Args:
        scheme: `bfv`, the only one. `ckks` is refused: it is sound only where the server never sees a decrypted sum.
        keepers: clients of a group that keep the secret key, at least 1; the round is lost when all of them are.
        ring: 32 or 64; sums are modulo a prime just below 2^32, or just below 2^58.
    """

    before = SUM_EXCHANGES[:2]
    carrier = SUM_EXCHANGES[2]
    after = SUM_EXCHANGES[3:]

    scheme: str = "bfv"
    keepers: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        problem = (
            "is approximate, and its decrypted sums reveal the secret key to those who see them (Li and Micciancio 2021). The "
            "server sees each of them: it computes the next model from it, and evaluates the model"
        )
        raise_errors(
            require(self.scheme != "ckks", "scheme", self.scheme, problem, "use scheme=bfv, whose sums are exact"),
            require_choice("scheme", "bfv" if self.scheme == "ckks" else self.scheme, ("bfv",)),
            require_at_least("keepers", self.keepers),
        )

    @property
    def parameters(self) -> BFVParameters:
        """The parameters of the encryption."""
        return PARAMETERS[self.ring]

    @property
    def codec(self) -> CiphertextCodec:
        """The codec of encrypted vectors."""
        return CiphertextCodec(self.parameters)

    @property
    def aggregator(self) -> CiphertextSum:
        """The sum of encrypted vectors."""
        return CiphertextSum(self.parameters)

    @property
    def largest_sum(self) -> int:
        """The largest absolute value of a sum: half the plain modulus."""
        return self.parameters.largest

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors as `IntegerSum`, and for too many ciphertexts in a sum."""
        yield from super().check(facts)
        largest, allowed = self.largest_group(facts), self.parameters.max_terms
        if largest > allowed:
            problem = f"adds up to {largest:,} ciphertexts, and {allowed:,} can be added without an error"
            yield ConfigError("encryption.group_size", self.group_size, problem, f"use at most {allowed // 2:,}")
        smallest = min(map(len, self.groups(range(facts.cohort_size))))
        if smallest >= MIN_CLIENTS and self.keepers >= smallest:
            problem = (
                f"gives the secret key to every client of a group of {smallest:,}: each can open the others' updates"
            )
            hint = "take fewer keepers, or more clients a round"
            yield ConfigError("encryption.keepers", self.keepers, problem, hint, warning=True)

    def describe(self, cohort: int) -> str:
        """The groups of a cohort, their losses, and the keepers."""
        groups, smallest = super().describe(cohort), min(map(len, self.groups(range(cohort))))
        if smallest < MIN_CLIENTS:
            return groups
        several = f"{min(self.keepers, smallest)} keepers of a group have"
        keepers, limit = (several, "one of them") if self.keepers > 1 else ("one keeper of a group has", "it")
        return (
            f"{groups}; {keepers} the secret key, and {limit} must answer. The server reads every update if "
            f"{limit} shows it the key"
        )

    def statement(self) -> str:
        """The protection, and whom it trusts."""
        return (
            "homomorphic encryption: the server sees sums of groups, no single update; all parties follow the protocol, and "
            f"no keeper of the secret key, of which a group has at most {self.keepers}, shows it to the server: that key opens "
            "the update of every client"
        )

    def begin(self, group: int, clients: Sequence[int], *, round: int, seed: int, layout: Layout) -> GroupSession:
        """Begin the server's half for one group."""
        try:
            setting = self._setting(round, group, len(clients), layout)
        except ValueError as error:
            raise LostGroup(str(error)) from None
        generator = stream(seed, Purpose.COMMON, round, client=group, key=crc32(self.name.encode()))
        order = [int(client) for client in generator.permutation(np.sort(np.asarray(clients)))]
        return _Session(self.aggregator, setting, HomomorphicServer(setting, order))

    def reply(self, ticket: Ticket) -> tuple[bytes, Tensors]:
        """Answer the exchanges of keys and the decryption."""
        turn, header, request = read_request(ticket)
        setting = self._setting(ticket.round, *header, ticket.layout)
        if turn.exchange == "advertise_keys":
            secrets, reply = advertise_key(ticket.client, setting)
        elif turn.exchange == "share_context":
            secrets, reply = deal_key(self._load(ticket), setting, request)
        else:
            return decrypt_sum(self._load(ticket), setting, request), {}
        return reply, seal_pending(ticket, secrets.dump())

    def conceal(self, integers: np.ndarray, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Encrypt the integers."""
        _, header, request = read_request(ticket)
        setting = self._setting(ticket.round, *header, ticket.layout)
        secrets, content = encrypt_vector(self._load(ticket), setting, request, self.quantizer.signed(integers))
        return to_vector(content), seal_pending(ticket, secrets.dump())

    def exchange_nbytes(self, clients: int, layout: Layout) -> tuple[int, int]:
        """Bytes of a client's messages besides the update: up, down."""
        return sum_messages_nbytes(clients, self._setting(0, 0, max(MIN_CLIENTS, clients), layout))

    def _setting(self, round: int, group: int, clients: int, layout: Layout) -> SumSetting:
        protocol = ProtocolSetting(round, group, self.encoded_layout(layout).size, self.ring, self.thresholds(clients))
        return SumSetting(protocol, self.parameters, self.keepers)

    def _load(self, ticket: Ticket) -> KeeperSecrets:
        return KeeperSecrets.load(ticket.client, unseal_pending(ticket))


class _Session(GroupSession):
    """The server's half of one group."""

    def __init__(self, aggregator: CiphertextSum, setting: SumSetting, server: HomomorphicServer) -> None:
        self._aggregator, self._server = aggregator, server
        self._header = HEADER.pack(setting.protocol.group, setting.protocol.thresholds.clients)
        self._total: Tensor | None = None

    def requests(self) -> Mapping[int, bytes]:
        """The message of the open exchange to each client that takes part."""
        total = [] if self._total is None else unpack_parts(to_bytes(self._total))
        requests = self._server.requests(total)
        messages = {request: self._header + request for request in set(requests.values())}  # most are equal, and long
        return {client: messages[request] for client, request in requests.items()}

    def receive(self, client: int, reply: bytes) -> None:
        """Take a client's reply in the open exchange."""
        self._server.receive(client, reply)

    def close(self) -> None:
        """End the open exchange."""
        self._server.close()

    def add(self, total: Tensor) -> None:
        """Add ciphertexts."""
        self._total = self._aggregator.add(self._total, total, 1.0)

    def finish(self) -> Tensor:
        """The sum that the keepers opened."""
        return torch.from_numpy(self._server.opened())
