"""Intervals equal those of SciPy, and cover the true value at their confidence level."""

import numpy as np
import pytest
from scipy import stats

from fedlit.reports.measures.statistics import Estimate, area_under_curve, student_interval, unpaired, welch_interval


@pytest.fixture
def samples():
    return np.random.default_rng(0).normal(0.8, 0.05, (2, 7))


def test_interval_equals_that_of_scipy(samples):
    mean, half = student_interval(samples[0])
    expected = stats.ttest_1samp(samples[0], 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx(tuple(expected), rel=1e-12)


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)])
def test_interval_uses_the_quantiles_of_the_published_table(count, quantile):
    values = np.arange(count, dtype=float)
    _, half = student_interval(values)
    assert half / (values.std(ddof=1) / count**0.5) == pytest.approx(quantile, abs=5e-4)


def test_paired_interval_equals_that_of_scipy(samples):
    a, b = (dict(enumerate(values)) for values in samples)
    estimate = Estimate.paired(a, b)
    assert estimate is not None
    expected = stats.ttest_rel(*samples).confidence_interval(0.95)
    assert (estimate.to_dict()["low"], estimate.to_dict()["high"]) == pytest.approx(tuple(expected), rel=1e-12)
    assert estimate.std == pytest.approx(np.std(samples[0] - samples[1], ddof=1))


def test_unpaired_interval_equals_the_welch_interval_of_scipy(samples):
    a, b = samples[0], samples[1, :4] * 3
    mean, half = welch_interval(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx(tuple(expected), rel=1e-12)
    estimate = unpaired(dict(enumerate(a)), dict(enumerate(b)))
    assert estimate is not None
    assert (estimate["low"], estimate["high"], estimate["n"]) == (mean - half, mean + half, [7, 4])


def test_pairs_are_the_seeds_that_both_have():
    estimate = Estimate.paired({1: 0.9, 2: 0.7, 4: 0.1}, {2: 0.5, 1: 0.8, 3: 0.0})
    assert estimate is not None
    assert estimate.values == pytest.approx({1: 0.1, 2: 0.2})


def test_one_value_has_no_interval():
    estimate = Estimate.of({5: 0.25})
    assert estimate is not None
    assert estimate.to_dict() == {
        "n": 1,
        "mean": 0.25,
        "half": None,
        "low": None,
        "high": None,
        "std": None,
        "values": {5: 0.25},
    }
    one = unpaired({1: 0.5}, {1: 0.25, 2: 0.5})
    assert one is not None
    assert (one["mean"], one["half"], one["low"]) == (0.125, None, None)


def test_no_value_has_no_estimate():
    assert Estimate.of({}) is None
    assert Estimate.paired({1: 1.0}, {2: 1.0}) is None
    assert unpaired({}, {1: 1.0}) is None


def test_equal_values_have_an_interval_of_width_0():
    assert student_interval(np.full(4, 0.5)) == (0.5, 0.0)
    assert welch_interval(np.full(4, 0.5), np.full(3, 0.25)) == (0.25, 0.0)


def test_area_is_the_mean_height():
    assert area_under_curve(np.array([1, 2, 4]), np.array([0.0, 1.0, 1.0])) == pytest.approx(2.5 / 3)
    assert area_under_curve(np.array([3]), np.array([0.7])) == 0.7


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_intervals_of_1000_synthetic_sweeps_cover_the_true_value_in_93_to_97_percent(seeds):
    """A sweep has two algorithms that differ by 0.02, with seeds of the same difficulty for both."""
    generator = np.random.default_rng(seeds)
    difficulty = generator.normal(0, 0.03, (1000, seeds))
    a = 0.82 + difficulty + generator.normal(0, 0.01, (1000, seeds))
    b = 0.80 + difficulty + generator.normal(0, 0.01, (1000, seeds))
    for truth, (mean, half) in ((0.82, student_interval(a)), (0.02, student_interval(a - b))):
        assert 0.93 <= np.mean(np.abs(mean - truth) <= half) <= 0.97


def test_paired_interval_is_narrower_for_shared_seeds_and_welch_interval_covers_without():
    generator = np.random.default_rng(1)
    difficulty = generator.normal(0, 0.03, (1000, 5))
    a, b = (difficulty + generator.normal(0, 0.01, (1000, 5)) for _ in range(2))
    assert np.median(student_interval(a - b)[1]) < 0.5 * np.median(welch_interval(a, b)[1])
    free = generator.normal(0.02, 0.04, (1000, 5))
    mean, half = welch_interval(free, b)
    assert 0.93 <= np.mean(np.abs(mean - 0.02) <= half) <= 0.97
