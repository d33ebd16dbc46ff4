"""Settings that privacy mechanisms refuse, each with its reason."""

import math

import pytest
from private import facts, separated

from fedlit.aggregation.privacy import DPFTRL, CentralDP, DistributedDP, LocalDP
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import Sampling

EVERY_MECHANISM = [
    ("algorithm.weights", {"weighting": "examples"}, "by the number of its examples"),
    ("algorithm", {"weighting": "losses", "algorithm": "QFedAvg"}, "by their losses"),
    ("algorithm", {"weighting": "steps", "algorithm": "FedNova"}, "mean of the clients' steps"),
    ("algorithm", {"weighting": "unknown", "algorithm": "Mine"}, "does not state its weights"),
    ("algorithm", {"update_numbers": {}}, "nothing to protect"),
    ("algorithm.buffers", {"update_numbers": {"parameters": 10, "buffers": 3}}, "releases 3 numbers of buffers"),
    ("eval.clients", {"has_client_tests": True}, "without noise"),
    ("sampler", {"sampling": Sampling("other", by_loss=True)}, "such as their losses"),
    ("privacy", {"clients": 1, "cohort_size": 1}, "the only client of this run has all data"),
    ("faults.max_norm", {"max_norm": 100.0}, "no noise covers who is refused"),
]
OF_THE_SUM = [
    ("aggregator", {"keeps_messages": True}, "compares single updates"),
    ("schedule.over_select", {"over_select": 1.5, "sampling": Sampling("other", size=10)}, "one client decides"),
    ("schedule.quorum", {"quorum": 2}, "depends on the clients' data"),
]


def errors_of(stage, **given):
    return [error for error in stage.check(facts(**given)) if not error.warning]


@pytest.mark.parametrize("stage", [CentralDP(epsilon=1.0), LocalDP(epsilon=1.0)], ids=["central", "local"])
@pytest.mark.parametrize(("key", "given", "reason"), EVERY_MECHANISM)
def test_a_setting_that_no_noise_covers_is_refused(stage, key, given, reason):
    (error,) = errors_of(stage, **given)
    assert error.key == key
    assert reason in error.problem


@pytest.mark.parametrize(("key", "given", "reason"), OF_THE_SUM)
def test_a_setting_that_changes_the_sensitivity_of_the_sum_is_refused(key, given, reason):
    (error,) = errors_of(CentralDP(epsilon=1.0), **given)
    assert error.key == key
    assert reason in error.problem


@pytest.mark.parametrize(("key", "given", "reason"), [*EVERY_MECHANISM[:6], *OF_THE_SUM[:1]])
def test_ftrl_refuses_the_same(key, given, reason):
    (error,) = errors_of(DPFTRL(epsilon=1.0), **{"sampling": separated(5), **given})
    assert error.key == key
    assert reason in error.problem


@pytest.mark.parametrize("kind", ["poisson", "fixed", "every", "other"])
def test_samplers_that_do_not_read_losses_are_accepted(kind):
    assert errors_of(CentralDP(epsilon=1.0), sampling=Sampling(kind, probability=0.1, size=100)) == []


def test_control_variates_share_the_norm_and_the_noise_and_are_a_warning():
    (warning,) = CentralDP(epsilon=1.0).check(facts(update_numbers={"parameters": 10, "control": 10}))
    assert warning.warning
    assert "share the clipping norm and the noise" in warning.problem


def test_a_large_delta_is_a_warning():
    (warning,) = CentralDP(epsilon=1.0, delta=0.01).check(facts(clients=100))
    assert warning.warning
    assert warning.key == "privacy.delta"


@pytest.mark.parametrize("stage", [CentralDP(), LocalDP(), DPFTRL()], ids=["central", "local", "ftrl"])
def test_a_budget_is_needed(stage):
    (error,) = errors_of(stage, sampling=separated(5))
    assert error.key == "privacy.epsilon"
    assert (error.problem, "privacy.noise_multiplier" in error.hint) == ("leaves the noise undecided", True)


@pytest.mark.parametrize("mechanism", [CentralDP, LocalDP, DPFTRL, DistributedDP])
@pytest.mark.parametrize(
    ("clip", "problem"),
    [
        (math.inf, "finite number; noise in proportion to an infinite norm is infinite"),
        (0.0, "greater than 0"),
        (-1.0, "greater than 0"),
        (math.nan, "greater than 0"),
    ],
)
def test_a_clipping_norm_without_noise_in_proportion_is_refused(mechanism, clip, problem):
    with pytest.raises((ConfigError, ConfigErrors), match=f"clip={clip}: must be (a )?{problem}"):
        mechanism(epsilon=1.0, clip=clip)
