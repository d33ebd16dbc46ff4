"""Messages as bytes: records of one length behind a client's id."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from fedlit.aggregation.secure.protocol.shamir import SHARE_BYTES

ID = struct.Struct("<I")
"""A client's id on the wire."""

HEADER = struct.Struct("<II")
"""Before each of the four requests to a client: the group's number, and its number of clients."""

KEY_BYTES = 32
NONCE_BYTES = 12

SEAL_BYTES = NONCE_BYTES + 16
"""Length that sealing adds to a text: the nonce before it, and the tag behind it."""

KEYS_BYTES = 2 * KEY_BYTES
"""Length of the two public keys of a client."""

SEALED_BYTES = 2 * SHARE_BYTES + SEAL_BYTES
"""Length of a sealed pair of shares."""


class ProtocolError(ValueError):
    """A message that an honest party neither sends nor answers."""


def pack_records(records: Mapping[int, bytes]) -> bytes:
    """Pack records of equal length, by client."""
    return b"".join(part for client, record in records.items() for part in (ID.pack(client), record))


def unpack_records(content: bytes, length: int) -> dict[int, bytes]:
    """Return the records of `pack_records`.

    Args:
        content: the bytes.
        length: length of a record.

    Raises:
        ProtocolError: if the content has another length, or a client twice.
    """
    size = ID.size + length
    if len(content) % size:
        raise ProtocolError(f"a message of {len(content)} bytes does not hold records of {length}")
    starts = range(0, len(content), size)
    records = {ID.unpack_from(content, start)[0]: content[start + ID.size : start + size] for start in starts}
    if len(records) != len(starts):
        raise ProtocolError("a message names a client twice")
    return records


def messages_nbytes(clients: int, neighbours: int | None) -> tuple[int, int]:
    """Bytes of one client's messages besides its vector, without losses.

    They are a pair: to the server, and from it.

    Args:
        clients: clients of the group.
        neighbours: k; None for a complete graph.
    """
    members = clients if neighbours is None else min(clients, neighbours + 1)
    shares = (members - 1) * (ID.size + SEALED_BYTES)
    up = KEYS_BYTES + KEY_BYTES + shares + members * (ID.size + SHARE_BYTES)
    return up, 4 * HEADER.size + members * (ID.size + KEYS_BYTES) + shares + members * (ID.size + 1)
