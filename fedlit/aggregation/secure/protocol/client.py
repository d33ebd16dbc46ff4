"""The client's half of the protocol.

It is that of Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017, Figure 4, for
parties that are honest but curious: https://eprint.iacr.org/2017/281. A client masks its vector with one mask for each
neighbour, which the neighbour's mask cancels, and with one of its own. It shares the secrets of both kinds, so that the masks
of lost clients can be removed, and never reveals both for one client.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fedlit.aggregation.secure.protocol.primitives import KeyPair, add_masks, commitment, seal, unseal
from fedlit.aggregation.secure.protocol.setting import ALIVE, LOST, ProtocolSetting
from fedlit.aggregation.secure.protocol.shamir import SHARE_BYTES, split_secret
from fedlit.aggregation.secure.protocol.wire import (
    KEYS_BYTES,
    SEALED_BYTES,
    ProtocolError,
    pack_records,
    unpack_records,
)

PHASES = ("advertised", "shared", "masked", "unmasked")


@dataclass(frozen=True)
class ClientSecrets:
    """The secrets of a client between two exchanges of a round.

    Args:
        client: id of the client.
        phase: the last exchange that the client took part in, of `PHASES`.
        sealing_key: private key that agrees keys for sealed shares.
        mask_key: private key that agrees keys of pairwise masks.
        group: number and size of the group, as the server named them in exchange 1.
        seed: key of the client's own mask; empty before it is shared.
        mask_publics: the public mask key of each neighbour.
        channels: the key that seals shares between the client and each neighbour.
        received: the sealed shares that each neighbour sent.
    """

    client: int
    phase: str
    sealing_key: bytes
    mask_key: bytes
    group: tuple[int, int]
    seed: bytes = b""
    mask_publics: Mapping[int, bytes] = field(default_factory=dict)
    channels: Mapping[int, bytes] = field(default_factory=dict)
    received: Mapping[int, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ClientSecrets(client={self.client}, phase={self.phase})"  # no secret gets into a log

    def dump(self) -> bytes:
        """The secrets as bytes, not encrypted."""
        return json.dumps(asdict(self), default=_hex, separators=(",", ":")).encode()

    @classmethod
    def load(cls, content: bytes) -> ClientSecrets:
        """Return the secrets of `dump`."""
        fields: dict[str, Any] = json.loads(content)
        for name in ("sealing_key", "mask_key", "seed"):
            fields[name] = bytes.fromhex(fields[name])
        for name in ("mask_publics", "channels", "received"):
            fields[name] = {int(client): bytes.fromhex(text) for client, text in fields[name].items()}
        return cls(**{**fields, "group": tuple(fields["group"])})

    def _require(self, phase: str, setting: ProtocolSetting) -> None:
        if self.phase != phase:
            raise ProtocolError(f"client {self.client} has {self.phase} and was asked as if it had only {phase}")
        setting.require_same_group(self.client, self.group)


def _hex(value: Any) -> Any:
    return value.hex()


def advertise_keys(client: int, setting: ProtocolSetting) -> tuple[ClientSecrets, bytes]:
    """Exchange 1, AdvertiseKeys: draw two key pairs.

    Args:
        client: id of the client.
        setting: the figures of the group, which may not change in later exchanges.

    Returns:
        The secrets, and the two public keys for the server.
    """
    sealing, masking = KeyPair(), KeyPair()
    group = (setting.group, setting.thresholds.clients)
    return ClientSecrets(client, "advertised", sealing.private, masking.private, group), sealing.public + masking.public


def share_keys(own: ClientSecrets, setting: ProtocolSetting, request: bytes) -> tuple[ClientSecrets, bytes]:
    """Exchange 2, ShareKeys: share the two secrets with the neighbourhood.

    Args:
        own: the secrets after exchange 1.
        setting: the figures of the group.
        request: public keys of the neighbourhood, with the client's own.

    Returns:
        The secrets, and for the server the commitment to the own mask's key and the sealed shares.

    Raises:
        ProtocolError: if there are too few keys, or more than the group has clients, or two are equal, or the client's own are
            missing.
    """
    own._require("advertised", setting)
    publics = unpack_records(request, KEYS_BYTES)
    sealing, masking = KeyPair(own.sealing_key), KeyPair(own.mask_key)
    keys = [key for pair in publics.values() for key in (pair[:32], pair[32:])]
    needed, members = setting.thresholds.neighbourhood, setting.thresholds.members
    if len(publics) < needed:
        raise ProtocolError(f"client {own.client} got the keys of {len(publics)} clients and needs {needed}")
    if len(publics) > members:
        problem = f"client {own.client} got the keys of {len(publics)} clients, and its neighbourhood has {members}"
        raise ProtocolError(f"{problem}: the server named too small a group, which lowers the threshold")
    if len(set(keys)) != len(keys):
        raise ProtocolError(f"client {own.client} got the same key twice")
    if publics.get(own.client) != sealing.public + masking.public:
        raise ProtocolError(f"client {own.client} did not get its own keys back")
    seed, own_shares, channels, sealed = secrets.token_bytes(32), b"", {}, {}
    points = [client + 1 for client in publics]
    shares = [split_secret(secret, needed, points) for secret in (seed, own.mask_key)]
    for client, pair in publics.items():
        plain = b"".join(share[client + 1].to_bytes(SHARE_BYTES, "big") for share in shares)
        if client == own.client:
            own_shares = plain
            continue
        channels[client] = sealing.agree(pair[:32], setting.info("channel", *sorted((own.client, client))))
        bound = setting.info("shares", own.client, client)
        sealed[client] = seal(channels[client], plain, bound)
    mask_publics = {client: pair[32:] for client, pair in publics.items() if client != own.client}
    after = replace(
        own, phase="shared", seed=seed, mask_publics=mask_publics, channels=channels, received={own.client: own_shares}
    )
    return after, commitment(seed) + pack_records(sealed)


def mask_vector(
    own: ClientSecrets, setting: ProtocolSetting, request: bytes, vector: np.ndarray
) -> tuple[ClientSecrets, np.ndarray]:
    """Exchange 3, MaskedInput: mask a vector.

    Args:
        own: the secrets after exchange 2.
        setting: the figures of the group.
        request: sealed shares of the neighbours that shared theirs.
        vector: the dtype of the setting, shape (d,).

    Returns:
        The secrets, and the masked vector for the server.

    Raises:
        ProtocolError: if too few neighbours shared their secrets, or one is unknown.
    """
    own._require("shared", setting)
    received = unpack_records(request, SEALED_BYTES)
    if unknown := received.keys() - own.mask_publics.keys():
        raise ProtocolError(
            f"client {own.client} got shares of clients {sorted(unknown)}, which are not its neighbours"
        )
    needed = setting.thresholds.neighbourhood
    if len(received) + 1 < needed:
        raise ProtocolError(f"client {own.client} got the shares of {len(received)} neighbours and needs {needed - 1}")
    if vector.shape != (setting.length,) or vector.dtype != setting.dtype:
        raise ValueError(f"a vector {vector.dtype} {vector.shape} is not {setting.dtype} ({setting.length},)")
    masking = KeyPair(own.mask_key)
    keys = {v: masking.agree(own.mask_publics[v], mask_info(setting, own.client, v)) for v in received}
    masked = vector.copy()
    add_masks(
        masked,
        add=[own.seed, *(key for v, key in keys.items() if own.client < v)],
        subtract=[key for v, key in keys.items() if own.client > v],
    )
    return replace(own, phase="masked", received={**own.received, **received}), masked


def mask_info(setting: ProtocolSetting, client: int, other: int) -> bytes:
    """Bytes that bind the key of a pairwise mask."""
    return setting.info("mask", *sorted((client, other)))


def reveal_shares(own: ClientSecrets, setting: ProtocolSetting, request: bytes) -> tuple[ClientSecrets, bytes]:
    """Exchange 4, Unmasking: reveal one share for each neighbour.

    Of a neighbour whose masked vector arrived it is the share of the own mask's key. Of a lost one it is the share of the
    private mask key. Shares that cannot be opened are left out.

    Args:
        own: the secrets after exchange 3.
        setting: the figures of the group.
        request: the flag `ALIVE` or `LOST` of each client of the neighbourhood that shared its secrets.

    Returns:
        The secrets, without any key, and the shares for the server.

    Raises:
        ProtocolError: if the client has answered before, if a client is unknown, or if too few are alive.
    """
    own._require("masked", setting)
    flags = unpack_records(request, 1)
    if unknown := flags.keys() - own.received.keys():
        raise ProtocolError(
            f"client {own.client} is asked for shares of clients {sorted(unknown)}, which it does not have"
        )
    if any(flag not in (ALIVE, LOST) for flag in flags.values()) or flags.get(own.client) != ALIVE:
        raise ProtocolError(f"client {own.client} is asked for shares as if its own vector had not arrived")
    alive, needed = sum(flag == ALIVE for flag in flags.values()), setting.thresholds.neighbourhood
    if alive < needed:
        raise ProtocolError(f"client {own.client} is asked to unmask {alive} clients, and refuses below {needed}")
    answers = {}
    for client, flag in flags.items():
        plain = own.received[client] if client == own.client else _opened(own, setting, client)
        if plain is not None:
            answers[client] = plain[:SHARE_BYTES] if flag == ALIVE else plain[SHARE_BYTES:]
    return ClientSecrets(own.client, "unmasked", b"", b"", own.group), pack_records(answers)


def _opened(own: ClientSecrets, setting: ProtocolSetting, sender: int) -> bytes | None:
    bound = setting.info("shares", sender, own.client)
    try:
        return unseal(own.channels[sender], own.received[sender], bound)
    except ValueError:
        return None
