"""The vault: pending state sealed under a key of the workers.

Between two exchanges the loop over rounds carries each client's pending state, since a client can be anywhere in the next one.
The state holds private keys, so the client seals it. A worker draws the key. Worker processes find it in the file without a
name that they inherit; the loop never reads it.
"""

from __future__ import annotations

import fcntl
import os

KEY_BYTES = 32
NO_KEY = bytes(KEY_BYTES)
"""The place of a key in a file before a worker process has drawn it."""


class Vault:
    """Seals bytes under a key that only workers hold.

    No key is part of a pickled vault. A copy in another process has a key of its own, unless the copies share a file.

    Args:
        descriptor: descriptor of an inherited file in which the copies find their key; None for a key of this vault alone.
        offset: place of the key in the file, at first `NO_KEY`.
    """

    def __init__(self, descriptor: int | None = None, offset: int = 0) -> None:
        self._descriptor, self._offset, self._key = descriptor, offset, b""

    def __reduce__(self) -> tuple[type[Vault], tuple[()]]:
        return Vault, ()

    def __deepcopy__(self, memo: object) -> Vault:
        return self

    def seal(self, content: bytes, bound: bytes) -> bytes:
        """Encrypt bytes.

        Args:
            content: the plain text.
            bound: the owner and the occasion; opening needs the same.
        """
        from fedlit.aggregation.secure.protocol.primitives import seal

        return seal(self._get_key(), content, bound)

    def unseal(self, sealed: bytes, bound: bytes) -> bytes:
        """Return the plain text of `seal`.

        Raises:
            ValueError: if the bytes were changed, belong to another owner or occasion, or were sealed under another key.
        """
        from fedlit.aggregation.secure.protocol.primitives import unseal

        return unseal(self._get_key(), sealed, bound)

    def _get_key(self) -> bytes:
        if not self._key:
            is_alone = self._descriptor is None
            self._key = os.urandom(KEY_BYTES) if is_alone else _common_key(self._descriptor or 0, self._offset)
        return self._key


def _common_key(descriptor: int, offset: int) -> bytes:
    """The key in a file; the first worker process draws it."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        key = os.pread(descriptor, KEY_BYTES, offset)
        if key == NO_KEY:
            key = os.urandom(KEY_BYTES)
            os.pwrite(descriptor, key, offset)
        return key
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)
