"""The server's half of the protocol: see `protocol.client` for the source.

The server sees public keys, sealed shares, masked vectors (of which it keeps the sum) and the revealed shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedlit.aggregation.secure.protocol.client import mask_info
from fedlit.aggregation.secure.protocol.primitives import KeyPair, add_masks, commitment
from fedlit.aggregation.secure.protocol.setting import ALIVE, LOST, LostGroup, ProtocolSetting
from fedlit.aggregation.secure.protocol.shamir import SHARE_BYTES, combine_shares, lagrange_coefficients
from fedlit.aggregation.secure.protocol.wire import (
    KEY_BYTES,
    KEYS_BYTES,
    SEALED_BYTES,
    ProtocolError,
    pack_records,
    unpack_records,
)

EXCHANGES = ("advertise_keys", "share_keys", "masked_input", "unmasking")


class SecureAggregationServer:
    """One group's server in one round.

    Each exchange is `requests`, `receive` for each reply, and `close`.

    Args:
        setting: the figures of the group.
        neighbourhoods: the neighbourhood of each client, itself included.
    """

    def __init__(self, setting: ProtocolSetting, neighbourhoods: Mapping[int, Sequence[int]]) -> None:
        self._setting, self._neighbourhoods = setting, neighbourhoods
        self._publics: dict[int, bytes] = {}
        self._commitments: dict[int, bytes] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}  # by sender, then receiver
        self._alive: set[int] = set()
        self._shares: dict[int, dict[int, int]] = {}  # by owner, then point
        self._answered: set[int] = set()
        self._step = 0

    @property
    def exchange(self) -> str:
        """Name of the open exchange."""
        return EXCHANGES[self._step]

    @property
    def alive(self) -> frozenset[int]:
        """Clients whose masked vector arrived."""
        return frozenset(self._alive)

    def requests(self) -> dict[int, bytes]:
        """The message of the open exchange to each client that takes part."""
        return getattr(self, f"_requests_{self.exchange}")()

    def receive(self, client: int, reply: bytes) -> None:
        """Take a client's reply in the open exchange.

        In `masked_input` the reply only says that the vector arrived.

        Raises:
            ProtocolError: if the client does not take part, has replied before, or the reply is malformed.
        """
        getattr(self, f"_receive_{self.exchange}")(client, reply)

    def close(self) -> None:
        """End the open exchange; a later reply to it is refused.

        Raises:
            LostGroup: if too few clients replied.
        """
        replied = (self._publics, self._sealed, self._alive, self._answered)[self._step]
        needed = self._setting.thresholds.group
        if len(replied) < needed:
            name = "".join(word.capitalize() for word in self.exchange.split("_"))
            clients = self._setting.thresholds.clients
            raise LostGroup(f"{len(replied)} of {clients} clients answered {name}, and {needed} are needed")
        self._step += 1

    def _requests_advertise_keys(self) -> dict[int, bytes]:
        return dict.fromkeys(self._neighbourhoods, b"")

    def _receive_advertise_keys(self, client: int, reply: bytes) -> None:
        self._require(client in self._neighbourhoods and client not in self._publics, client)
        self._require(len(reply) == KEYS_BYTES, client)
        self._publics[client] = reply

    def _requests_share_keys(self) -> dict[int, bytes]:
        return {
            client: pack_records({v: self._publics[v] for v in self._neighbourhoods[client] if v in self._publics})
            for client in self._publics
        }

    def _receive_share_keys(self, client: int, reply: bytes) -> None:
        self._require(client in self._publics and client not in self._sealed, client)
        sealed = unpack_records(reply[KEY_BYTES:], SEALED_BYTES)
        receivers = {v for v in self._neighbourhoods[client] if v in self._publics} - {client}
        self._require(sealed.keys() == receivers, client)
        self._commitments[client], self._sealed[client] = reply[:KEY_BYTES], sealed

    def _requests_masked_input(self) -> dict[int, bytes]:
        return {
            client: pack_records({v: self._sealed[v][client] for v in self._sharers(client) if v != client})
            for client in self._sealed
        }

    def _receive_masked_input(self, client: int, reply: bytes) -> None:
        self._require(client in self._sealed and client not in self._alive, client)
        self._alive.add(client)

    def _requests_unmasking(self) -> dict[int, bytes]:
        return {
            client: pack_records({v: ALIVE if v in self._alive else LOST for v in self._sharers(client)})
            for client in self._alive
        }

    def _receive_unmasking(self, client: int, reply: bytes) -> None:
        self._require(client in self._alive and client not in self._answered, client)
        shares = unpack_records(reply, SHARE_BYTES)
        self._require(shares.keys() <= set(self._sharers(client)), client)
        for owner, share in shares.items():
            self._shares.setdefault(owner, {})[client + 1] = int.from_bytes(share, "big")
        self._answered.add(client)

    def _sharers(self, client: int) -> list[int]:
        """The members of a neighbourhood that shared their secrets."""
        return [v for v in self._neighbourhoods[client] if v in self._sealed]

    def _require(self, condition: bool, client: int) -> None:
        if not condition:
            raise ProtocolError(f"client {client} sent an unexpected message in {self.exchange}")

    def unmask(self, total: np.ndarray) -> np.ndarray:
        """Remove all masks from the sum of the masked vectors.

        Args:
            total: sum of the masked vectors of `alive` modulo the ring, shape (d,); it does not change.

        Returns:
            The sum of the vectors of `alive`, modulo the ring.

        Raises:
            LostGroup: if a secret cannot be rebuilt.
        """
        add, subtract = [], []
        coefficients: dict[tuple[int, ...], list[int]] = {}
        for client in self._sealed:
            survivors = [v for v in self._sharers(client) if v in self._alive]
            if not survivors:
                continue  # no vector in the sum has a mask with this client
            secret = self._rebuild(client, coefficients)
            if client in self._alive:
                self._check(commitment(secret) == self._commitments[client], client)
                subtract.append(secret)
                continue
            pair = KeyPair(secret)
            self._check(pair.public == self._publics[client][KEY_BYTES:], client)
            for v in survivors:  # v added the mask of the pair if its id is the smaller one
                key = pair.agree(self._publics[v][KEY_BYTES:], mask_info(self._setting, client, v))
                (subtract if v < client else add).append(key)
        opened = total.copy()
        add_masks(opened, add, subtract)
        return opened

    def _rebuild(self, client: int, coefficients: dict[tuple[int, ...], list[int]]) -> bytes:
        shares, needed = self._shares.get(client, {}), self._setting.thresholds.neighbourhood
        if len(shares) < needed:
            raise LostGroup(f"{len(shares)} shares of client {client}'s secret arrived, and {needed} are needed")
        chosen = dict(sorted(shares.items())[:needed])
        points = tuple(chosen)
        if points not in coefficients:
            coefficients[points] = lagrange_coefficients(points)
        try:
            return combine_shares(chosen, coefficients[points])
        except ValueError as error:
            raise LostGroup(f"client {client}: {error}") from None

    def _check(self, condition: bool, client: int) -> None:
        if not condition:
            raise LostGroup(f"the shares of client {client}'s secret do not fit together")
