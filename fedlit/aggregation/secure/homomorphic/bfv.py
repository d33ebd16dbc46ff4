"""BFV, an exact homomorphic encryption of integers, from the library TenSEAL.

Sources: Brakerski (CRYPTO 2012), Fan and Vercauteren (https://eprint.iacr.org/2012/144). Keys are bytes, since the library's
objects cannot be pickled. Their random numbers are the library's, which takes its seeds from the operating system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError

try:
    import tenseal.sealapi  # with the types of SEAL, which the parameters of a key need
except ImportError as error:
    hint = "pip install 'fedlit[he]'"
    raise ConfigError("encryption", "he", f"needs the library TenSEAL: {error}", hint) from error

STANDARD_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
"""Largest bits of the coefficient modulus for 128-bit security, by degree.

It is for a ternary secret and classical attacks: Albrecht et al., Homomorphic Encryption Security Standard, 2018, Table 1.
"""


@dataclass(frozen=True)
class BFVParameters:
    """Parameters of BFV with one integer in each slot.

    Args:
        degree: N, number of integers in a ciphertext; a power of two.
        plain_modulus: t, a prime with t = 1 modulo 2N; sums are modulo t.
        coefficient_bits: bits of each prime of the coefficient modulus. The last prime is not part of a ciphertext: it makes
            the noise of an encryption small.
        max_terms: ciphertexts that may be added. The sum of so many keeps 8 bits of its noise budget, so it is exact.

    Raises:
        ValueError: if the coefficient modulus is too large for 128-bit security.
    """

    degree: int
    plain_modulus: int
    coefficient_bits: tuple[int, ...]
    max_terms: int

    def __post_init__(self) -> None:
        bits, largest = sum(self.coefficient_bits), STANDARD_BITS.get(self.degree, 0)
        if bits > largest:
            problem = f"a coefficient modulus of {bits} bits is too large for the degree {self.degree}"
            raise ValueError(f"{problem}: 128-bit security allows {largest}")

    @property
    def largest(self) -> int:
        """The largest absolute value of a sum."""
        return self.plain_modulus // 2

    def ciphertexts(self, length: int) -> int:
        """Number of ciphertexts that hold a vector of this length."""
        return -(-length // self.degree)


PARAMETERS = {
    32: BFVParameters(4096, 4294828033, (60, 49), 2**12),
    64: BFVParameters(8192, 288230376150876161, (60, 60, 60), 2**20),
}
"""Parameters by ring: t is a prime just below 2^32, or just below 2^58."""


@dataclass(frozen=True)
class BFVSizes:
    """Lengths in bytes; those of keys vary by some 100 bytes.

    Args:
        public: of the public key with its parameters.
        secret: of the secret key with its parameters.
        ciphertext: of one ciphertext.
    """

    public: int
    secret: int
    ciphertext: int


def make_keys(parameters: BFVParameters) -> tuple[bytes, bytes]:
    """Draw a key pair.

    Returns:
        The public and the secret key, each with its parameters.
    """
    context = _make_context(parameters)
    public, secret = (
        context.serialize(save_public_key=not is_secret, save_secret_key=is_secret, **_NO_MORE_KEYS)
        for is_secret in (False, True)
    )
    return public, secret


def encrypt(parameters: BFVParameters, public: bytes, integers: np.ndarray) -> list[bytes]:
    """Encrypt integers.

    Args:
        parameters: the parameters of all parties.
        public: the public key.
        integers: int64 of shape (d,), of absolute value at most `parameters.largest`.

    Returns:
        The ciphertexts, of N integers each: zeros follow the last ones.

    Raises:
        ValueError: if the key has other parameters or holds a secret key, or an integer is too large.
    """
    if len(integers) and max(int(integers.max()), -int(integers.min())) > parameters.largest:
        raise ValueError(f"an integer is larger than {parameters.largest}")
    context, size = _load_public(parameters, public), parameters.degree
    slots = np.zeros((parameters.ciphertexts(len(integers)), size), np.int64)
    slots.reshape(-1)[: len(integers)] = integers
    return [tenseal.bfv_vector(context, part).serialize() for part in slots.tolist()]


def add_ciphertexts(parameters: BFVParameters, left: Sequence[bytes], right: Sequence[bytes]) -> list[bytes]:
    """Add ciphertexts pairwise, which needs no key.

    Raises:
        ValueError: if the lengths differ, or a ciphertext has other parameters.
    """
    context = _keyless_context(parameters)
    pairs = zip(left, right, strict=True)
    load = partial(_load, parameters, context)
    return [(load(first) + load(second)).serialize() for first, second in pairs]


def decrypt(parameters: BFVParameters, secret: bytes, ciphertexts: Sequence[bytes]) -> np.ndarray:
    """Decrypt ciphertexts.

    Returns:
        The integers, int64 of shape (number of ciphertexts * N,), of absolute value at most `parameters.largest`.

    Raises:
        ValueError: if there is no secret key, or the key or a ciphertext has other parameters.
    """
    context = _load_context(parameters, secret)
    if not context.has_secret_key():
        raise ValueError("a secret key is missing")
    return np.concatenate([np.asarray(_load(parameters, context, part).decrypt(), np.int64) for part in ciphertexts])


@cache
def measure_sizes(parameters: BFVParameters) -> BFVSizes:
    """The lengths of keys and ciphertexts, measured once in a process."""
    public, secret = make_keys(parameters)
    return BFVSizes(len(public), len(secret), len(encrypt(parameters, public, np.zeros(1, np.int64))[0]))


_NO_MORE_KEYS = {"save_galois_keys": False, "save_relin_keys": False}


def _make_context(parameters: BFVParameters) -> Any:
    scheme, bits = tenseal.SCHEME_TYPE.BFV, list(parameters.coefficient_bits)
    return tenseal.context(scheme, parameters.degree, parameters.plain_modulus, bits, n_threads=1)


@cache
def _keyless_context(parameters: BFVParameters) -> Any:
    context = _make_context(parameters)
    context.make_context_public()
    return context


@lru_cache(maxsize=2)  # the clients of a group have the same key
def _load_public(parameters: BFVParameters, public: bytes) -> Any:
    context = _load_context(parameters, public)
    if context.has_secret_key():
        raise ValueError("a public key comes with its secret key")
    if not context.has_public_key():  # the library would end the process
        raise ValueError("a public key is missing")
    return context


def _load_context(parameters: BFVParameters, content: bytes) -> Any:
    context = _parse(lambda: tenseal.context_from(content, n_threads=1), "a key")
    found = context.seal_context().data.key_context_data().parms()
    bits = tuple(prime.value().bit_length() for prime in found.coeff_modulus())
    given = (found.poly_modulus_degree(), found.plain_modulus().value(), bits)
    if given != (parameters.degree, parameters.plain_modulus, parameters.coefficient_bits):
        raise ValueError("a key has other parameters than those of the protocol")
    return context


def _load(parameters: BFVParameters, context: Any, ciphertext: bytes) -> Any:
    vector = _parse(lambda: tenseal.bfv_vector_from(context, ciphertext), "a ciphertext")
    if vector.size() != parameters.degree or len(vector.ciphertext()) != 1:
        raise ValueError(f"a ciphertext is malformed: it does not hold {parameters.degree} integers")
    return vector


def _parse(load: Any, name: str) -> Any:
    """Load an object; the library's errors are of several types."""
    try:
        return load()
    except (ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{name} is malformed: {error}") from None
