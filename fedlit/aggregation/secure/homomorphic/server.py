"""The server's half of a sum under homomorphic encryption: see `client`.

The server has public keys, sealed secret keys and ciphertexts, of which it keeps the sum. It has no secret key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedlit.aggregation.secure.homomorphic.bfv import measure_sizes
from fedlit.aggregation.secure.homomorphic.ciphertexts import COUNTER, LENGTH, unpack_parts
from fedlit.aggregation.secure.homomorphic.client import SumRequest, SumSetting
from fedlit.aggregation.secure.protocol.setting import LostGroup
from fedlit.aggregation.secure.protocol.wire import HEADER, ID, KEY_BYTES, SEAL_BYTES, ProtocolError, pack_records

SUM_EXCHANGES = ("advertise_keys", "share_context", "ciphertexts", "decryption")


class HomomorphicServer:
    """One group's server in one round.

    Each exchange is `requests`, `receive` for each reply, and `close`. The keepers are the first clients that advertised a key.
    Each draws a key pair. The first whose reply arrives in order is the dealer, and the others' key pairs are not used.

    Args:
        setting: the figures of the group.
        clients: the clients in the order in which they become keepers.
    """

    def __init__(self, setting: SumSetting, clients: Sequence[int]) -> None:
        self._setting, self._clients = setting, tuple(clients)
        self._publics: dict[int, bytes] = {}
        self._keepers: tuple[int, ...] = ()
        self._dealt: dict[int, tuple[bytes, dict[int, bytes]]] = {}  # the public key, and the sealed keys by receiver
        self._alive: set[int] = set()
        self._opened: dict[int, bytes] = {}
        self._step = 0

    @property
    def exchange(self) -> str:
        """Name of the open exchange."""
        return SUM_EXCHANGES[self._step]

    def requests(self, total: Sequence[bytes] = ()) -> dict[int, bytes]:
        """The message of the open exchange to each client that takes part.

        Args:
            total: the sum of the ciphertexts, for the last exchange.
        """
        if self.exchange == "advertise_keys":
            return dict.fromkeys(self._clients, b"")
        if self.exchange == "share_context":
            return dict.fromkeys(
                self._keepers, pack_records({client: self._publics[client] for client in self._keepers})
            )
        if self.exchange == "ciphertexts":
            return dict.fromkeys(self._live_clients(), self._dealt[self._dealer][0])
        return {client: self._ask(client, total) for client in self._live_keepers()}

    def receive(self, client: int, reply: bytes) -> None:
        """Take a client's reply in the open exchange.

        In `ciphertexts` the reply only says that they arrived.

        Raises:
            ProtocolError: if the client does not take part, has replied before, or the reply is malformed.
        """
        if self.exchange == "advertise_keys":
            self._require(client in self._clients and client not in self._publics, client)
            self._require(len(reply) == KEY_BYTES, client)
            self._publics[client] = reply
        elif self.exchange == "share_context":
            self._require(client in self._keepers and client not in self._dealt, client)
            public, *parts = unpack_parts(reply)
            sealed = {ID.unpack_from(part)[0]: part[ID.size :] for part in parts}
            self._require(sealed.keys() == {*self._keepers} - {client}, client)
            self._dealt[client] = public, sealed
        elif self.exchange == "ciphertexts":
            self._require(client in self._live_clients() and client not in self._alive, client)
            self._alive.add(client)
        else:
            self._require(client in self._live_keepers() and client not in self._opened, client)
            self._require(len(reply) == self._setting.reply_nbytes, client)
            self._opened[client] = reply

    def close(self) -> None:
        """End the open exchange; a later reply to it is refused.

        Raises:
            LostGroup: if too few clients replied, or no keeper is left.
        """
        replied = (self._publics, self._live_clients(), self._alive, self._opened)[self._step]
        needed = 1 if self.exchange == "decryption" else self._setting.protocol.thresholds.group
        if len(replied) < needed:
            name = "".join(word.capitalize() for word in self.exchange.split("_"))
            asked = len(self._live_keepers()) if self.exchange == "decryption" else len(self._clients)
            raise LostGroup(f"{len(replied)} of {asked} clients answered {name}, and {needed} are needed")
        if self.exchange == "advertise_keys":
            live = tuple(client for client in self._clients if client in self._publics)
            self._keepers = live[: self._setting.keepers]
        elif not self._live_keepers():
            raise LostGroup(f"none of the {len(self._keepers)} keepers of the key is left")
        self._step += 1

    def opened(self) -> np.ndarray:
        """The opened sum, int64.

        Raises:
            LostGroup: if the keepers opened different sums.
        """
        replies = set(self._opened.values())
        if len(replies) != 1:
            raise LostGroup("the keepers of the key opened different sums")
        return np.frombuffer(replies.pop(), self._setting.reply_dtype).astype(np.int64)

    @property
    def _dealer(self) -> int:
        return next(client for client in self._keepers if client in self._dealt)

    def _live_clients(self) -> list[int]:
        """Clients that have answered each exchange so far."""
        silent = {client for client in self._keepers if client not in self._dealt}
        return [client for client in self._clients if client in self._publics and client not in silent]

    def _live_keepers(self) -> list[int]:
        """Keepers that have the secret key and can open the sum."""
        has_sum = self._step >= SUM_EXCHANGES.index("ciphertexts")
        return [client for client in self._keepers if client in (self._alive if has_sum else self._dealt)]

    def _ask(self, client: int, total: Sequence[bytes]) -> bytes:
        sealed = self._dealt[self._dealer][1].get(client, b"")
        return SumRequest(self._dealer, len(self._alive), self._publics[self._dealer], sealed, total).dump()

    def _require(self, condition: bool, client: int) -> None:
        if not condition:
            raise ProtocolError(f"client {client} sent an unexpected message in {self.exchange}")


def sum_messages_nbytes(clients: int, setting: SumSetting) -> tuple[int, int]:
    """Bytes of a client's messages besides its ciphertexts, without losses.

    They are a pair: to the server, and from it. Each is the mean of the group, rounded up, since keepers send and get more.

    Args:
        clients: clients of the group.
        setting: the figures of the group.
    """
    keepers, sizes = min(setting.most_keepers, clients), measure_sizes(setting.parameters)
    sealed, public, head = sizes.secret + SEAL_BYTES, LENGTH.size + sizes.public, LENGTH.size + 2 * ID.size + KEY_BYTES
    dealt = public + (keepers - 1) * (LENGTH.size + ID.size + sealed)
    total = setting.parameters.ciphertexts(setting.protocol.length + COUNTER) * (LENGTH.size + sizes.ciphertext)
    up = clients * KEY_BYTES + keepers * (dealt + setting.reply_nbytes)
    down = clients * (2 * HEADER.size + sizes.public) + (keepers - 1) * sealed
    down += keepers * (2 * HEADER.size + keepers * (ID.size + KEY_BYTES) + head + LENGTH.size + total)
    return -(-up // clients), -(-down // clients)
