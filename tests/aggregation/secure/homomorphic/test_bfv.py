"""BFV ciphertexts: security of the parameters, exact sums up to their limits, refused keys and messages."""

from functools import cache

import numpy as np
import pytest
import tenseal
import tenseal.sealapi as seal

from fedlit.aggregation.secure.homomorphic.bfv import (
    PARAMETERS,
    STANDARD_BITS,
    BFVParameters,
    add_ciphertexts,
    decrypt,
    encrypt,
    make_keys,
    measure_sizes,
)

SMALL, LARGE = PARAMETERS[32], PARAMETERS[64]
BOTH = pytest.mark.parametrize("parameters", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["32", "64"])


@cache
def keys(parameters):
    return make_keys(parameters)


def encrypted(parameters, *integers):
    return encrypt(parameters, keys(parameters)[0], np.array(integers, np.int64))


def opened(parameters, ciphertexts):
    """The integers, without the zeros that follow them."""
    return np.trim_zeros(decrypt(parameters, keys(parameters)[1], ciphertexts), "b").tolist()


@pytest.mark.parametrize("parameters", PARAMETERS.values())
def test_parameters_have_128_bit_security_by_the_standard_and_by_the_library(parameters):
    allowed = seal.CoeffModulus.MaxBitCount(parameters.degree, seal.SEC_LEVEL_TYPE.TC128)
    assert sum(parameters.coefficient_bits) <= allowed == STANDARD_BITS[parameters.degree]


def test_a_coefficient_modulus_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="128-bit security allows 109"):
        BFVParameters(4096, SMALL.plain_modulus, (60, 50), 1)
    with pytest.raises(ValueError, match="allows 0"):
        BFVParameters(4095, SMALL.plain_modulus, (20,), 1)


@pytest.mark.parametrize(("parameters", "bits"), [(SMALL, 32), (LARGE, 58)])
def test_the_plain_modulus_is_the_largest_prime_of_its_length_that_has_slots(parameters, bits):
    assert parameters.plain_modulus == seal.PlainModulus.Batching(parameters.degree, bits).value()
    assert parameters.plain_modulus % (2 * parameters.degree) == 1
    assert 2 * parameters.largest + 1 == parameters.plain_modulus


@BOTH
def test_sums_are_exact_up_to_the_largest_absolute_value(parameters):
    half, rest = parameters.largest // 2, parameters.largest - parameters.largest // 2
    left, right = encrypted(parameters, half, -half, 7, -7), encrypted(parameters, rest, -rest, -9, 0)
    total = add_ciphertexts(parameters, left, right)
    assert opened(parameters, total) == [parameters.largest, -parameters.largest, -2, -7]
    wrapped = add_ciphertexts(parameters, total, encrypted(parameters, 1, -1, 0, 0))
    assert opened(parameters, wrapped) == [-parameters.largest, parameters.largest, -2, -7]


@pytest.mark.slow
@BOTH
def test_the_sum_of_the_most_ciphertexts_keeps_its_noise_budget(parameters):
    """A ciphertext doubled k times has the noise of 2^k equal ones, the worst case of so many."""
    doublings = parameters.max_terms.bit_length() - 1
    assert 2**doublings == parameters.max_terms
    total = encrypted(parameters, *[1] * parameters.degree)
    for _ in range(doublings):
        total = add_ciphertexts(parameters, total, total)
    assert opened(parameters, total) == [parameters.max_terms] * parameters.degree
    context = tenseal.context_from(keys(parameters)[1], 1)
    ciphertext = tenseal.bfv_vector_from(context, total[0]).ciphertext()[0]
    assert context.decryptor().data.invariant_noise_budget(ciphertext) >= 8


@pytest.mark.slow
def test_a_vector_longer_than_a_ciphertext_has_several():
    integers = np.arange(-5000, 5001)
    ciphertexts = encrypt(SMALL, keys(SMALL)[0], integers)
    assert len(ciphertexts) == SMALL.ciphertexts(10001) == 3
    assert {len(part) for part in ciphertexts} == {measure_sizes(SMALL).ciphertext}
    assert opened(SMALL, ciphertexts) == integers.tolist()


@pytest.mark.slow
def test_equal_integers_have_other_ciphertexts():
    assert encrypted(SMALL, 1, 2, 3) != encrypted(SMALL, 1, 2, 3)


@pytest.mark.slow
def test_keys_differ_and_a_public_key_opens_nothing():
    public, secret = keys(SMALL)
    assert make_keys(SMALL)[1] != secret
    assert opened(SMALL, encrypted(SMALL, 5)) == [5]
    assert decrypt(SMALL, make_keys(SMALL)[1], encrypted(SMALL, 5))[0] != 5
    with pytest.raises(ValueError, match="secret"):
        decrypt(SMALL, public, encrypted(SMALL, 5))


@pytest.mark.slow
def test_a_public_key_that_is_missing_or_comes_with_its_secret_key_is_refused():
    context = tenseal.context_from(keys(SMALL)[0], 1)
    nothing = context.serialize(save_public_key=False)
    for content, problem in ((keys(SMALL)[1], "comes with its secret key"), (nothing, "is missing")):
        with pytest.raises(ValueError, match=problem):
            encrypt(SMALL, content, np.array([1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [(4096, 40961, (60, 49)), (4096, 4294828033, (36, 36, 37)), (8192, 4294475777, (60, 49))]
)
def test_a_key_with_other_parameters_is_refused(other):
    public, _ = make_keys(BFVParameters(*other, 1))
    with pytest.raises(ValueError, match="other parameters"):
        encrypt(SMALL, public, np.array([1]))


@pytest.mark.slow
@pytest.mark.parametrize("integer", [SMALL.largest + 1, -SMALL.largest - 1, np.iinfo(np.int64).min])
def test_an_integer_that_is_too_large_is_refused(integer):
    with pytest.raises(ValueError, match="larger than 2147414016"):
        encrypted(SMALL, integer)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"x", b"\n\x02\x80 ", bytes(100)])
def test_malformed_keys_and_ciphertexts_are_refused(content):
    with pytest.raises(ValueError, match=r"malformed|parameters"):
        encrypt(SMALL, content, np.array([1]))
    with pytest.raises(ValueError, match="malformed"):
        add_ciphertexts(SMALL, [content], encrypted(SMALL, 1))


@pytest.mark.slow
def test_a_ciphertext_that_is_cut_or_has_other_parameters_is_refused():
    (whole,) = encrypted(SMALL, 1)
    (other,) = encrypt(LARGE, make_keys(LARGE)[0], np.array([1]))
    for part in (whole[:-9], other):
        with pytest.raises(ValueError, match="malformed"):
            add_ciphertexts(SMALL, [whole], [part])
    with pytest.raises(ValueError, match="argument 2"):
        add_ciphertexts(SMALL, [whole], [])
