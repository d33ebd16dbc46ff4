"""Intervals are SciPy's, and hold the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from fedlit.reports.statistics import Estimate, area_under_curve, student_interval, unpaired, welch_interval


@pytest.fixture
def drawn():
    return np.random.default_rng(0).normal(0.8, 0.05, (2, 7))


def test_an_interval_is_scipys(drawn):
    mean, half = student_interval(drawn[0])
    expected = stats.ttest_1samp(drawn[0], 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx(tuple(expected), rel=1e-12)


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)])
def test_an_interval_takes_the_quantiles_of_the_printed_table(count, quantile):
    values = np.arange(count, dtype=float)
    _, half = student_interval(values)
    assert half / (values.std(ddof=1) / count**0.5) == pytest.approx(quantile, abs=5e-4)


def test_a_paired_interval_is_scipys(drawn):
    a, b = (dict(enumerate(values)) for values in drawn)
    found = Estimate.paired(a, b)
    assert found is not None
    expected = stats.ttest_rel(*drawn).confidence_interval(0.95)
    assert (found.plain()["low"], found.plain()["high"]) == pytest.approx(tuple(expected), rel=1e-12)
    assert found.std == pytest.approx(np.std(drawn[0] - drawn[1], ddof=1))


def test_an_unpaired_interval_is_scipys_welch(drawn):
    a, b = drawn[0], drawn[1, :4] * 3
    mean, half = welch_interval(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx(tuple(expected), rel=1e-12)
    found = unpaired(dict(enumerate(a)), dict(enumerate(b)))
    assert found is not None
    assert (found["low"], found["high"], found["n"]) == (mean - half, mean + half, [7, 4])


def test_pairs_are_those_of_seeds_that_both_have():
    found = Estimate.paired({1: 0.9, 2: 0.7, 4: 0.1}, {2: 0.5, 1: 0.8, 3: 0.0})
    assert found is not None
    assert found.values == pytest.approx({1: 0.1, 2: 0.2})


def test_one_value_has_no_interval():
    found = Estimate.of({5: 0.25})
    assert found is not None
    assert found.plain() == {
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


def test_values_that_are_all_the_same_have_an_interval_of_no_width():
    assert student_interval(np.full(4, 0.5)) == (0.5, 0.0)
    assert welch_interval(np.full(4, 0.5), np.full(3, 0.25)) == (0.25, 0.0)


def test_an_area_is_a_mean_height():
    assert area_under_curve(np.array([1, 2, 4]), np.array([0.0, 1.0, 1.0])) == pytest.approx(2.5 / 3)
    assert area_under_curve(np.array([3]), np.array([0.7])) == 0.7


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_of_1000_synthetic_sweeps_the_intervals_hold_the_truth_93_to_97_percent_of_the_time(seeds):
    """A sweep: two algorithms that differ by 0.02, over seeds whose difficulty both share."""
    generator = np.random.default_rng(seeds)
    difficulty = generator.normal(0, 0.03, (1000, seeds))
    a = 0.82 + difficulty + generator.normal(0, 0.01, (1000, seeds))
    b = 0.80 + difficulty + generator.normal(0, 0.01, (1000, seeds))
    for truth, (mean, half) in ((0.82, student_interval(a)), (0.02, student_interval(a - b))):
        assert 0.93 <= np.mean(np.abs(mean - truth) <= half) <= 0.97


def test_a_paired_interval_is_narrower_where_seeds_are_shared_and_welchs_holds_without():
    generator = np.random.default_rng(1)
    difficulty = generator.normal(0, 0.03, (1000, 5))
    a, b = (difficulty + generator.normal(0, 0.01, (1000, 5)) for _ in range(2))
    assert np.median(student_interval(a - b)[1]) < 0.5 * np.median(welch_interval(a, b)[1])
    free = generator.normal(0.02, 0.04, (1000, 5))
    mean, half = welch_interval(free, b)
    assert 0.93 <= np.mean(np.abs(mean - 0.02) <= half) <= 0.97
