"""Adaptive clipping: the split of the noise, and the steps of the clipping norm."""

import math

import pytest

from fedlit.aggregation.privacy.adaptive import QuantileClip
from fedlit.core.errors import ConfigError


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 4.0])
def test_both_releases_together_have_the_joint_multiplier(multiplier):
    rule = QuantileClip(count_noise=5.0)
    updates = rule.update_multiplier(multiplier, expected=100)
    assert updates**-2 + (1 / (2 * 5.0)) ** 2 == pytest.approx(multiplier**-2)  # a client moves the count by 1/2
    assert updates > multiplier


def test_the_noise_on_the_count_is_a_twentieth_of_the_cohort_by_default():
    assert QuantileClip().count_std(100) == 5.0
    assert QuantileClip(count_noise=3.0).count_std(100) == 3.0


def test_without_noise_there_is_nothing_to_split():
    assert QuantileClip().update_multiplier(0.0, expected=100) == 0.0


def test_a_count_with_less_noise_than_the_joint_multiplier_needs_is_refused():
    with pytest.raises(ValueError, match=r"must exceed 0\.5"):
        QuantileClip(count_noise=0.5).update_multiplier(1.0, expected=100)


def test_the_norm_grows_if_few_updates_fit_and_shrinks_if_many_do():
    rule = QuantileClip(lr=0.2, quantile=0.5)
    assert rule.next_clip(1.0, unclipped=0, updates=100, expected=100, noise=0.0) == pytest.approx(math.exp(0.1))
    assert rule.next_clip(1.0, unclipped=100, updates=100, expected=100, noise=0.0) == pytest.approx(math.exp(-0.1))
    assert rule.next_clip(1.0, unclipped=50, updates=100, expected=100, noise=0.0) == 1.0


def test_a_missing_client_counts_as_half_clipped():
    rule = QuantileClip(lr=1.0, quantile=0.4)
    step = rule.next_clip(1.0, unclipped=35, updates=50, expected=100, noise=0.0)
    assert step == pytest.approx(math.exp(-(0.5 + 10 / 100 - 0.4)))
    assert rule.next_clip(1.0, unclipped=0, updates=0, expected=100, noise=0.0) == pytest.approx(math.exp(-0.1))


def test_noise_counts_in_clients():
    rule = QuantileClip()
    noisy = rule.next_clip(1.0, unclipped=50, updates=100, expected=100, noise=10.0)
    assert noisy == rule.next_clip(1.0, unclipped=60, updates=100, expected=100, noise=0.0)


@pytest.mark.parametrize(
    ("argument", "value"), [("initial", 0.0), ("quantile", 0.0), ("quantile", 1.0), ("lr", -1.0), ("count_noise", 0.0)]
)
def test_an_argument_out_of_range_is_refused_with_its_name(argument, value):
    with pytest.raises(ConfigError, match=argument):
        QuantileClip(**{argument: value})
