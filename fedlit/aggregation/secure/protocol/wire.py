"""Messages as bytes: records of one length behind a client's id."""

from __future__ import annotations

import struct
from collections.abc import Mapping

ID = struct.Struct("<I")
"""A client's id on the wire."""


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
