"""Skellam noise: its divergence against numerical sums, its moments, the rounding before it, and the ring after it."""

import math

import mpmath
import numpy as np
import pytest
from scipy.special import ive, logsumexp
from scipy.stats import chisquare, skellam

from fedlit.aggregation.privacy.accounting.library import epsilon_of_divergences, gaussian_epsilon
from fedlit.aggregation.privacy.accounting.skellam import log_bessel_ratio, skellam_divergence, skellam_epsilon
from fedlit.aggregation.privacy.skellam.grid import SkellamGrid, draw_skellam
from fedlit.aggregation.privacy.skellam.rotation import rotate, rotated_size, unrotate
from fedlit.aggregation.privacy.skellam.rounding import round_conditionally, rounded_square
from fedlit.aggregation.privacy.skellam.wrapping import skellam_tail, wrap_probability
from fedlit.core.errors import ConfigError


def rng(seed=0):
    return np.random.default_rng(seed)


def log_masses(numbers, variance):
    """The logarithms of the Skellam probabilities: exp(-v) I_k(v)."""
    with np.errstate(divide="ignore"):
        return np.log(ive(np.abs(numbers), variance))


def exact_divergence(order, shift, variance):
    """The Rényi divergence between a shifted Skellam number and an unshifted one, summed over the integers."""
    reach = 60 + int(14 * math.sqrt(variance) + 1.5 * order * abs(shift))
    numbers = np.arange(-reach, reach + 1)
    shifted, plain = log_masses(numbers - shift, variance), log_masses(numbers, variance)
    finite = np.isfinite(shifted) & np.isfinite(plain)
    return logsumexp(order * shifted[finite] + (1 - order) * plain[finite]) / (order - 1)


def papers_bound(order, square, total, variance):
    """Agarwal, Kairouz, Liu 2021: with the squared L2 norm and the L1 norm of the shift."""
    more = min(((2 * order - 1) * square + 6 * total) / (4 * variance**2), 3 * total / (2 * variance))
    return order * square / (2 * variance) + more


def test_the_masses_are_those_of_a_difference_of_poisson_numbers_with_half_the_variance_each():
    numbers = np.arange(-30, 31)
    assert np.exp(log_masses(numbers, 7.0)) == pytest.approx(skellam.pmf(numbers, 3.5, 3.5), rel=1e-9)
    assert skellam.var(3.5, 3.5) == 7.0


@pytest.mark.parametrize("variance", [1.0, 3.0, pytest.param(10.0, marks=pytest.mark.slow), 100.0, 3000.0])
@pytest.mark.parametrize("order", [2, pytest.param(3, marks=pytest.mark.slow), 32])
def test_the_bound_is_above_the_divergence_and_close_to_it_under_much_noise(variance, order):
    for shift in (1, 2, 5, 20):
        exact, bound = exact_divergence(order, shift, variance), skellam_divergence(order, shift**2, 1, variance)
        assert exact <= bound * (1 + 1e-9)
        if variance > 100 * shift * order:
            assert exact >= 0.98 * bound


@pytest.mark.parametrize("variance", [0.05, 1.0, 30.0, pytest.param(3000.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("order", [1.1, 1.5, 1.9, 2.5, pytest.param(7.3, marks=pytest.mark.slow), 10.9])
def test_at_fractional_orders_the_bound_is_above_the_divergence_too(variance, order):
    """For one number the last term is not negligible, as it is for an update."""
    for shift in (1, 3, 20):
        exact, square = exact_divergence(order, shift, variance), shift**2
        bound = skellam_divergence(order, square, 1, variance)
        assert exact <= bound * (1 + 1e-9)
        assert bound == pytest.approx((order * square + 1 / (4 * (order - 1))) * log_bessel_ratio(variance))
        if variance > 100 * shift * order:
            assert exact >= 0.98 * order * square * log_bessel_ratio(variance)


def test_at_fractional_orders_each_integer_other_than_0_counts_once():
    """There are at most as many as the squared norm, and at most as many as numbers."""
    ratio = log_bessel_ratio(1e4)
    for size, integers in ((1000, 90), (60, 60)):
        assert skellam_divergence(1.5, 90, size, 1e4) == pytest.approx((1.5 * 90 + integers / 2) * ratio)
        assert skellam_divergence(3.0, 90, size, 1e4) == pytest.approx(3 * 90 * ratio)
    shift, variance = (3, 1, 0, -2, 1), 40.0
    exact = sum(exact_divergence(2.5, number, variance) for number in shift if number)
    assert exact < skellam_divergence(2.5, 15, 5, variance)


@pytest.mark.parametrize("variance", [0.2, 5.0, 400.0])
@pytest.mark.parametrize("order", [1.3, 2.0, 2.5, 6.8])
def test_the_shift_of_the_proof_holds_for_each_number(variance, order):
    """P(k - a)^alpha P(k)^(1 - alpha) <= P(k - f)^(1 - w) P(k - f - 1)^w exp(s (alpha (alpha - 1) a^2 + w (1 - w)) / 2)."""
    numbers, half = np.arange(-60, 61), log_bessel_ratio(variance)
    for shift in (1, -2, 7):
        whole = math.floor(order * shift)
        part = order * shift - whole
        left = order * log_masses(numbers - shift, variance) + (1 - order) * log_masses(numbers, variance)
        near, far = log_masses(numbers - whole, variance), log_masses(numbers - whole - 1, variance)
        gaps = (1 - part) * near + part * far + half * order * (order - 1) * shift**2 - left
        assert (gaps + half * part * (1 - part) >= -1e-9 * (1 + np.abs(left))).all()
        if variance == 400.0 and order < 3 and shift == 1 and part:
            assert gaps.min() < -0.9 * half * part * (1 - part)  # the last term is needed


@pytest.mark.slow
def test_fractional_orders_make_epsilon_smaller():
    """By 4 % here. All orders above 1 would take another 0.1 % at most."""
    square, size, delta = 10**6, 1024, 0.0063
    slope = log_bessel_ratio(0.25 * square) * square
    whole = epsilon_of_divergences(tuple(range(2, 65)), slope * np.arange(2, 65), delta)
    dense = np.linspace(1.2, 8, 2000)
    best = epsilon_of_divergences(tuple(dense), slope * dense, delta)
    assert best < skellam_epsilon(((0.25 * square, 1),), square, size, delta) < min(1.001 * best, 0.97 * whole)


@pytest.mark.slow
def test_the_bound_is_below_that_of_the_paper_for_the_noise_in_use():
    for variance in (100.0, 1e4, 1e6):
        for order in (2, 8, 32):
            assert skellam_divergence(order, 9, 1, variance) < papers_bound(order, 9, 9, variance)
            assert exact_divergence(order, 3, variance) < papers_bound(order, 9, 3, variance)


def test_divergences_of_several_numbers_add_up_to_less_than_the_bound_of_their_squares():
    shift, variance = (3, 1, 0, -2, 1), 40.0
    exact = sum(exact_divergence(4, number, variance) for number in shift if number)
    bound = skellam_divergence(4, sum(number**2 for number in shift), 5, variance)
    assert 0.95 * bound < exact < bound


@pytest.mark.parametrize("variance", [0.1, 1.0, 20.0, 500.0])
def test_second_differences_of_the_log_masses_are_largest_at_0(variance):
    """The lemma of the proof: ln(I_j^2 / (I_(j-1) I_(j+1))) <= 2 ln(I_0 / I_1)."""
    with mpmath.workdps(40):
        values = [mpmath.log(mpmath.besseli(j, variance)) for j in range(42)]
    differences = [2 * values[j] - values[abs(j - 1)] - values[j + 1] for j in range(41)]
    assert differences == sorted(differences, reverse=True)
    assert differences[0] <= 2 * log_bessel_ratio(variance) * (1 + 1e-12)


@pytest.mark.parametrize("variance", [1e-3, 0.5, 17.0, 49.9, 50.0, 1e3, 1e6, 1e12])
def test_the_ratio_of_bessel_functions_is_never_too_small(variance):
    with mpmath.workdps(60):
        exact = float(mpmath.log(mpmath.besseli(0, variance) / mpmath.besseli(1, variance)))
    assert exact * (1 - 1e-12) <= log_bessel_ratio(variance) <= exact * (1 + 2e-5)


@pytest.mark.slow
def test_epsilon_holds_by_the_definition_of_differential_privacy():
    """The exact delta of one number: the sum of max(0, P(k - shift) - exp(epsilon) P(k))."""
    shift, delta = 30, 1e-5
    for noise in (0.7, 2.0, 8.0):
        variance = (noise * shift) ** 2
        epsilon = skellam_epsilon(((variance, 1),), shift**2, 1, delta)
        reach = int(20 * math.sqrt(variance)) + 5 * shift
        numbers = np.arange(-reach, reach)
        gaps = np.exp(log_masses(numbers - shift, variance)) - np.exp(epsilon + log_masses(numbers, variance))
        assert delta / 50 < np.maximum(gaps, 0).sum() < delta


@pytest.mark.slow
def test_epsilon_of_many_releases_approaches_that_of_gaussian_noise_from_above():
    square, releases = 10**6, 25
    for noise in (2.0, 10.0):
        exact = gaussian_epsilon(noise / 5, 1e-5)
        assert exact < skellam_epsilon(((noise**2 * square, releases),), square, 1000, 1e-5) < 1.15 * exact
    parts = ((4.0 * square, 10), (100.0 * square, 15))
    assert skellam_epsilon(parts, square, 1000, 1e-5) == pytest.approx(
        skellam_epsilon(((4.0 * square, 10),), square, 1000, 1e-5), rel=0.2
    )


@pytest.mark.parametrize("variance", [0.5, 9.0, 5000.0])
def test_noise_has_the_moments_of_its_variance(variance):
    draws, count = draw_skellam(variance, 40_000, rng()).astype(float), 40_000
    assert abs(draws.mean()) <= 4 * math.sqrt(variance / count)
    spread = math.sqrt((2 + 1 / variance) / count)  # of the sample variance, relative
    assert abs((draws**2).mean() / variance - 1) <= 4 * spread
    assert abs((draws**4).mean() / variance**2 - 3 - 1 / variance) <= 5 * math.sqrt((96 + 200 / variance**3) / count)


@pytest.mark.slow
def test_noise_has_the_skellam_distribution():
    draws, edge = draw_skellam(4.0, 20_000, rng()), 5
    counts = np.bincount(np.clip(draws, -edge, edge) + edge, minlength=2 * edge + 1)
    masses = skellam.pmf(np.arange(-edge, edge + 1), 2.0, 2.0)
    masses[[0, -1]] += skellam.sf(edge, 2.0, 2.0)
    assert chisquare(counts, masses * counts.sum() / masses.sum()).pvalue > 1e-3


def test_noise_of_no_or_unknown_variance():
    assert draw_skellam(0.0, 3, rng()).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="lam"):
        draw_skellam(math.nan, 3, rng())


def test_a_rounded_vector_is_never_longer_than_stated():
    """With many numbers and a coarse grid more than a third of plain roundings are longer."""
    size, norm = 400, 12.0
    square, vector = rounded_square(norm, size, math.exp(-0.5)), np.full(400, norm / 20)
    plain = [float(((np.floor(vector + rng(seed).random(size))) ** 2).sum()) for seed in range(200)]
    square = int(np.quantile(plain, 0.6))
    rounded = [round_conditionally(vector, square, rng(seed)) for seed in range(200)]
    assert max(float(r @ r) for r in rounded) <= square < max(plain)
    assert all(set(np.unique(r)) <= {0.0, 1.0} for r in rounded)


@pytest.mark.slow
def test_a_rounding_is_unbiased_and_longer_than_its_bound_with_the_stated_probability():
    size, norm, beta = 300, 20.0, 0.05
    vector = rng().standard_normal(size)
    vector *= norm / np.linalg.norm(vector)
    square = rounded_square(norm, size, beta)
    plain = np.array([np.floor(vector + rng(seed).random(size)) for seed in range(3000)])
    assert ((plain**2).sum(1) > square).mean() <= beta
    mean = np.mean([round_conditionally(vector, square, rng(seed)) for seed in range(3000)], 0)
    assert np.abs(mean - vector).max() <= 5 * 0.5 / math.sqrt(3000)
    assert rounded_square(norm, size, 1e-300) == math.floor((norm + math.sqrt(size)) ** 2)


def test_a_vector_that_is_too_long_is_an_error():
    with pytest.raises(ValueError, match="squared norm 100 is longer than the grid allows: at most 99"):
        round_conditionally(np.array([10.0, 0.0]), 99, rng())


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1000])
def test_a_rotation_keeps_norms_and_can_be_undone(size):
    vector = rng().standard_normal(size)
    rotated = rotate(vector, rng(1))
    assert len(rotated) == rotated_size(size)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(vector))
    assert unrotate(rotated, rng(1), size) == pytest.approx(vector)
    if size > 64:
        assert np.abs(rotated - rotate(vector, rng(2))).max() > 0.1


def test_a_rotation_spreads_a_single_number():
    assert np.abs(rotate(np.eye(1, 1000)[0], rng())) == pytest.approx(np.full(1024, 1 / 32))


@pytest.mark.parametrize(("variance", "distance"), [(0.5, 6), (10.0, 12), (1e4, 500)])
def test_the_tail_of_the_noise_is_above_the_exact_one(variance, distance):
    exact = 2 * skellam.sf(distance - 1, variance / 2, variance / 2)
    assert exact <= math.exp(skellam_tail(distance, variance)) <= 60 * exact


@pytest.mark.slow
def test_the_probability_that_a_sum_leaves_the_ring_is_above_the_observed_one():
    figures = {"clients": 5, "norm": 64.0, "variance": 100.0, "size": 64}
    vector = np.zeros(64)
    vector[0] = 5 * 64.0
    draws = np.array([rotate(vector, rng(s)) + draw_skellam(500.0, 64, rng(s + 9999)) for s in range(300)])
    for ring in (8, 9):
        observed = (np.abs(draws) >= 2 ** (ring - 1)).any(1).mean()
        assert observed <= wrap_probability(ring=ring, is_rotated=True, **figures)
    assert wrap_probability(ring=9, is_rotated=True, **figures) < 0.1
    assert wrap_probability(ring=9, is_rotated=False, **figures) == pytest.approx(1.0)
    assert wrap_probability(ring=10, is_rotated=False, **figures) < 1e-3
    assert wrap_probability(ring=3, is_rotated=False, **figures) == 1.0
    assert wrap_probability(ring=32, is_rotated=True, **figures) == 0.0


def test_a_grid_encodes_the_weights_0_and_1_alone():
    grid = SkellamGrid(step=0.5, square=100, size=2, share=0.0, survivors=3)
    vector = np.array([1.0, -2.0], np.float32)
    assert grid.encode(vector, 1.0, rng()).tolist() == [2, -4]
    assert grid.encode(vector, 0.0, rng()).tolist() == [0, 0]
    assert grid.decode(np.array([2, -4])).tolist() == [1.0, -2.0]
    with pytest.raises(ConfigError, match="the weights 0 and 1 alone"):
        grid.encode(vector, 2.0, rng())
