"""The stage of homomorphic encryption: refusals, and descriptions for the plan and the summary."""

from dataclasses import replace

import pytest
from test_secure_sums import FACTS

from fedlit.aggregation import Channel
from fedlit.aggregation.secure import HomomorphicSum, IdealSum, SecAgg
from fedlit.core.errors import ConfigError


def errors(stage=None, **changes):
    return [str(error) for error in (stage or HomomorphicSum()).check(replace(FACTS, **changes)) if not error.warning]


def test_a_usual_federation_is_accepted():
    assert errors() == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"keeps_messages": True}, "needs them one by one"),
        ({"integer_buffers": ("bn.num_batches_tracked",)}, "bn.num_batches_tracked"),
        ({"cohort_size": 2}, "cohorts of 3 clients or more"),
        ({"has_common_key": False}, "no common key"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_as_by_secagg(changes, text):
    (error,) = errors(**changes)
    assert text in error
    assert [error.replace("HomomorphicSum", "SecAgg")] == errors(SecAgg(), **changes)


def test_a_sum_stays_below_half_the_plain_modulus():
    """The sum of 4,096 clients' integers of 20 bits is smaller than 2^31, and larger than half the prime."""
    assert errors(max_cohort=4095) == []
    (error,) = errors(max_cohort=4096)
    assert "encryption.ring=32: is too small: the sum of 4,096 clients' coordinate can reach 2.15e+09" in error
    assert errors(SecAgg(), max_cohort=4096) == errors(HomomorphicSum(ring=64), max_cohort=4096) == []
    assert len(errors(HomomorphicSum(ring=64, max_weight=2**44), max_cohort=2**14)) == 1
    assert errors(HomomorphicSum(ring=64, max_weight=2**42), max_cohort=2**14) == []


def test_more_ciphertexts_than_the_noise_allows_are_refused():
    (error,) = errors(HomomorphicSum(bits=4), max_cohort=4097)
    assert "adds up to 4,097 ciphertexts, and 4,096 can be added without an error" in error
    assert errors(HomomorphicSum(bits=4), max_cohort=4096) == []
    assert errors(HomomorphicSum(bits=4, group_size=2048), max_cohort=10**6) == []


def test_ckks_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"scheme=ckks: is approximate.*Li and Micciancio 2021"):
        HomomorphicSum(scheme="ckks")


@pytest.mark.parametrize("arguments", [{"scheme": "paillier"}, {"keepers": 0}, {"threshold": 0.5}, {"ring": 48}])
def test_arguments_outside_their_range_are_refused_with_their_key(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        HomomorphicSum(**arguments)


@pytest.mark.parametrize("other", [SecAgg(), IdealSum()])
def test_a_second_secure_stage_is_refused(other):
    with pytest.raises(ConfigError, match="secure_sum"):
        Channel.of([HomomorphicSum(), other])


def test_the_plan_says_who_keeps_the_key_and_what_it_opens():
    secagg = "one group of 10 clients, of which 3 can be lost: 7 must answer"
    limit = "The server reads every update if {} shows it the key"
    three = f"{secagg}; 3 keepers of a group have the secret key, and one of them must answer. {limit}"
    assert HomomorphicSum().describe(10) == three.format("one of them")
    one = f"{secagg}; one keeper of a group has the secret key, and it must answer. {limit}"
    assert HomomorphicSum(keepers=1).describe(10) == one.format("it")
    assert HomomorphicSum().describe(2) == SecAgg().describe(2)
    assert "; 10 keepers of a group have the secret key" in HomomorphicSum(keepers=20).describe(10)


@pytest.mark.parametrize(("keepers", "warned"), [(3, 0), (4, 1), (9, 1)])
def test_a_key_that_each_client_keeps_is_warned_about(keepers, warned):
    found = [error for error in HomomorphicSum(keepers=keepers).check(FACTS) if error.key == "encryption.keepers"]
    assert len(found) == warned
    assert all(error.warning and "every client of a group of 4" in error.problem for error in found)


def test_the_summary_says_that_one_key_opens_every_update():
    assert "that key opens the update of every client" in HomomorphicSum().statement()
