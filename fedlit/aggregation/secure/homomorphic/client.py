"""The client's half of a sum under homomorphic encryption.

The clients and the server are honest but curious. Some clients of a group keep the secret key: one of them draws it, and seals
it for the others under keys that X25519 agrees. All clients encrypt under the public key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedlit.aggregation.secure.homomorphic.bfv import BFVParameters, decrypt, encrypt, make_keys
from fedlit.aggregation.secure.homomorphic.ciphertexts import pack_parts, unpack_parts
from fedlit.aggregation.secure.protocol.primitives import KeyPair, seal, unseal
from fedlit.aggregation.secure.protocol.setting import ProtocolSetting
from fedlit.aggregation.secure.protocol.wire import HEADER, ID, KEY_BYTES, ProtocolError, unpack_records

PHASES = ("advertised", "dealt", "encrypted")


@dataclass(frozen=True)
class KeeperSecrets:
    """The secrets of a client between two exchanges of a round.

    Args:
        client: id of the client.
        phase: the last exchange that the client took part in, of `PHASES`.
        private: private key that agrees keys with the other keepers.
        group: number and size of the group, as the server named them in exchange 1.
        secret: the secret key of BFV that the client drew; empty if it drew none.
    """

    client: int
    phase: str
    private: bytes
    group: tuple[int, int]
    secret: bytes = b""

    def __repr__(self) -> str:
        return f"KeeperSecrets(client={self.client}, phase={self.phase})"  # no secret gets into a log

    def dump(self) -> bytes:
        """The secrets as bytes, not encrypted."""
        return bytes([PHASES.index(self.phase)]) + self.private + HEADER.pack(*self.group) + self.secret

    @classmethod
    def load(cls, client: int, content: bytes) -> KeeperSecrets:
        """Return the secrets of `dump`."""
        end = 1 + KEY_BYTES
        (number, clients), secret = HEADER.unpack_from(content, end), content[end + HEADER.size :]
        return cls(client, PHASES[content[0]], content[1:end], (number, clients), secret)

    def require(self, setting: SumSetting, *phases: str) -> None:
        """Raise ProtocolError unless the client has its group and a phase."""
        if self.phase not in phases:
            raise ProtocolError(f"client {self.client} has {self.phase} and was asked as if it had only {phases[-1]}")
        setting.protocol.require_same_group(self.client, self.group)


@dataclass(frozen=True)
class SumSetting:
    """The figures of one group in one round, which all parties know.

    Args:
        protocol: round, group, length of a vector, thresholds.
        parameters: the parameters of the encryption.
        most_keepers: clients that keep the secret key, at most.
    """

    protocol: ProtocolSetting
    parameters: BFVParameters
    most_keepers: int

    @property
    def clients(self) -> int:
        """Number of clients of the group."""
        return self.protocol.thresholds.clients

    @property
    def keepers(self) -> int:
        """Clients of the group that keep the secret key."""
        return min(self.most_keepers, self.clients)

    def bound(self, sender: int, receiver: int) -> bytes:
        """Bytes that bind a sealed secret key to its occasion."""
        return self.protocol.info("bfv", sender, receiver)

    @property
    def reply_dtype(self) -> np.dtype:
        """The dtype of an opened sum."""
        return np.dtype(f"<i{self.protocol.ring_bits // 8}")

    @property
    def reply_nbytes(self) -> int:
        """Length of an opened sum in bytes."""
        return self.reply_dtype.itemsize * self.protocol.length


@dataclass(frozen=True)
class SumRequest:
    """The request of exchange 4.

    Args:
        dealer: the keeper that drew the secret key.
        updates: number of updates in the sum.
        public: the dealer's public key of X25519.
        sealed: the secret key, sealed by the dealer for the receiver; empty for the dealer itself.
        ciphertexts: the sum.
    """

    dealer: int
    updates: int
    public: bytes
    sealed: bytes
    ciphertexts: Sequence[bytes]

    def dump(self) -> bytes:
        """The request as bytes."""
        head = ID.pack(self.dealer) + ID.pack(self.updates) + self.public
        return pack_parts([head, self.sealed, *self.ciphertexts])

    @classmethod
    def load(cls, content: bytes) -> SumRequest:
        """Return the request of `dump`."""
        head, sealed, *ciphertexts = unpack_parts(content)
        (dealer,), (updates,) = ID.unpack_from(head), ID.unpack_from(head, ID.size)
        return cls(dealer, updates, head[2 * ID.size :], sealed, ciphertexts)


def advertise_key(client: int, setting: SumSetting) -> tuple[KeeperSecrets, bytes]:
    """Exchange 1: draw the key pair that a sealed secret key needs.

    Args:
        client: id of the client.
        setting: the figures of the group, which may not change in later exchanges.

    Returns:
        The secrets, and the public key for the server.
    """
    pair = KeyPair()
    group = (setting.protocol.group, setting.clients)
    return KeeperSecrets(client, "advertised", pair.private, group), pair.public


def deal_key(own: KeeperSecrets, setting: SumSetting, request: bytes) -> tuple[KeeperSecrets, bytes]:
    """Exchange 2: draw a key pair, and seal the secret key.

    Args:
        own: the secrets after exchange 1.
        setting: the figures of the group.
        request: public keys of the keepers, with the client's own.

    Returns:
        The secrets, and for the server the public key and the sealed secret keys.

    Raises:
        ProtocolError: if there are more keys than keepers, or two are equal, or the client's own is missing.
    """
    own.require(setting, "advertised")
    publics, pair = unpack_records(request, KEY_BYTES), KeyPair(own.private)
    if publics.get(own.client) != pair.public:
        raise ProtocolError(f"client {own.client} did not get its own key back")
    if len(publics) > setting.keepers:
        problem = f"client {own.client} got the keys of {len(publics)} keepers"
        raise ProtocolError(f"{problem}, and a group of {setting.clients} clients has {setting.keepers}")
    if len(set(publics.values())) != len(publics):
        raise ProtocolError(f"client {own.client} got the same key twice")
    public, secret = make_keys(setting.parameters)
    parts = [public]
    for client, other in publics.items():
        if client != own.client:
            bound = setting.bound(own.client, client)
            key = pair.agree(other, bound)
            parts.append(ID.pack(client) + seal(key, secret, bound))
    return replace(own, phase="dealt", secret=secret), pack_parts(parts)


def encrypt_vector(
    own: KeeperSecrets, setting: SumSetting, request: bytes, integers: np.ndarray
) -> tuple[KeeperSecrets, bytes]:
    """Exchange 3: encrypt a vector.

    Args:
        own: the secrets after exchange 1 or 2.
        setting: the figures of the group.
        request: the public key of BFV.
        integers: int64 of shape (d,).

    Returns:
        The secrets, and the ciphertexts for the server.

    Raises:
        ProtocolError: if the public key is not one of the protocol.
    """
    own.require(setting, "dealt", "advertised")
    try:
        ciphertexts = encrypt(setting.parameters, request, np.append(integers, np.int64(1)))
    except ValueError as error:
        raise ProtocolError(f"client {own.client} does not encrypt: {error}") from None
    return replace(own, phase="encrypted"), pack_parts(ciphertexts)


def decrypt_sum(own: KeeperSecrets, setting: SumSetting, request: bytes) -> bytes:
    """Exchange 4: decrypt the sum of the ciphertexts.

    The sum has the number of its updates as its last integer. A client refuses to open a sum of too few.

    Args:
        own: the secrets after exchange 3.
        setting: the figures of the group.
        request: see `SumRequest`.

    Returns:
        The sum of the vectors as integers of the ring's length.

    Raises:
        ProtocolError: if the sum has fewer updates than the threshold, or more than the group has clients, or another number
            than the server says, or the secret key cannot be opened.
    """
    own.require(setting, "encrypted")
    asked = SumRequest.load(request)
    needed = setting.protocol.thresholds.group
    if asked.updates < needed:
        raise ProtocolError(f"client {own.client} is asked to open {asked.updates} updates, and refuses below {needed}")
    if asked.updates > setting.clients:
        problem = f"client {own.client} is asked to open {asked.updates} updates, and its group has {setting.clients}"
        raise ProtocolError(f"{problem}: the server named too small a group, which lowers the threshold")
    try:
        slots = decrypt(setting.parameters, _unseal_secret(own, setting, asked), asked.ciphertexts)
    except ValueError as error:
        raise ProtocolError(f"client {own.client} cannot open the sum: {error}") from None
    integers, updates = slots[: setting.protocol.length], slots[setting.protocol.length]
    if updates != asked.updates:
        raise ProtocolError(f"client {own.client} is asked to open {asked.updates} updates, and the sum has {updates}")
    return integers.astype(setting.reply_dtype).tobytes()


def _unseal_secret(own: KeeperSecrets, setting: SumSetting, asked: SumRequest) -> bytes:
    """The secret key of BFV.

    Raises:
        ValueError: if it was sealed for another client or occasion.
    """
    if asked.dealer == own.client:
        return own.secret
    bound = setting.bound(asked.dealer, own.client)
    key = KeyPair(own.private).agree(asked.public, bound)
    return unseal(key, asked.sealed, bound)
