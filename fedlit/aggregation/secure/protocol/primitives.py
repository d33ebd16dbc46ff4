"""Keys, masks and authenticated encryption, from the library `cryptography`.

Every secret comes from the operating system; none comes from a stream of the experiment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import numpy as np

from fedlit.aggregation.secure.protocol.wire import KEY_BYTES, NONCE_BYTES
from fedlit.core.errors import ConfigError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    hint = "pip install 'fedlit[secure]'"
    raise ConfigError("encryption", "secagg", f"needs the library cryptography: {error}", hint) from error

BLOCK = 1 << 16
"""Bytes of a mask that are made and added at a time, so that they stay in the cache."""

ZEROS = bytes(BLOCK)


class KeyPair:
    """An X25519 key pair.

    Args:
        private: the 32 bytes of the private key; None draws a key.
    """

    def __init__(self, private: bytes | None = None) -> None:
        self._key = X25519PrivateKey.generate() if private is None else X25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def private(self) -> bytes:
        """The 32 bytes of the private key."""
        return self._key.private_bytes_raw()

    def agree(self, other: bytes, info: bytes) -> bytes:
        """The 32-byte key that both owners can derive: X25519, then HKDF-SHA256.

        The key is bound to both public keys and to `info`.

        Args:
            other: the other owner's public key.
            info: the key's purpose, the same on both sides.

        Raises:
            ValueError: if the other public key is of low order.
        """
        low, high = sorted((self.public, other))
        secret = self._key.exchange(X25519PublicKey.from_public_bytes(other))
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=info + low + high).derive(secret)


def seal(key: bytes, content: bytes, bound: bytes) -> bytes:
    """Encrypt with ChaCha20-Poly1305 under a random nonce.

    The operating system draws the nonce. So a party that is made to repeat a step, from a state that it had before, does not
    seal two texts under one key and nonce, which would show their difference.

    Args:
        key: 32 bytes.
        content: the plain text.
        bound: further bytes that opening needs, which are not sent.

    Returns:
        The nonce and the cipher text: `SEAL_BYTES` more than the plain text.
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, bound)


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Return the plain text of `seal`.

    Raises:
        ValueError: if the key or the bound bytes differ, or the sealed text was changed.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):  # the library refuses a text that ends within the nonce
        raise ValueError("a sealed message was changed, or is meant for someone else") from None


def commitment(seed: bytes) -> bytes:
    """A 32-byte value that fixes a random seed and hides it."""
    return hashlib.sha256(b"fedlit/seed" + seed).digest()


def add_masks(vector: np.ndarray, add: Iterable[bytes], subtract: Iterable[bytes]) -> None:
    """Add and subtract masks in place, modulo the vector's ring.

    A mask is the key stream of AES-256 in counter mode.

    Args:
        vector: uint32 or uint64, little-endian, contiguous, shape (d,).
        add: 32-byte keys of the masks to add; a key masks one vector only.
        subtract: 32-byte keys of the masks to subtract.
    """
    streams = [
        (operation, Cipher(AES(key), CTR(bytes(16))).encryptor())
        for operation, keys in ((np.add, add), (np.subtract, subtract))
        for key in keys
    ]
    block = np.empty(BLOCK // vector.itemsize, vector.dtype)
    buffer = block.data.cast("B")
    for start in range(0, len(vector), len(block)):
        part = vector[start : start + len(block)]
        nbytes = part.nbytes
        for operation, stream in streams:
            stream.update_into(ZEROS[:nbytes], buffer[:nbytes])
            operation(part, block[: len(part)], out=part)
