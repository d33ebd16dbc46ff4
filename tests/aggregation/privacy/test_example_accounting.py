"""Epsilon of the examples of clients that train by DP-SGD, against Opacus."""

import math

import pytest

from fedlit.aggregation.privacy.accounting import epsilon_quantiles, example_epsilon
from fedlit.core.errors import ConfigError

pytest.importorskip("dp_accounting", reason="the extra dp is not installed")


@pytest.mark.slow
def test_epsilon_of_a_history_agrees_with_opacus():
    from opacus.accountants import PRVAccountant

    opacus = PRVAccountant()
    for noise, rate, steps in ((1.0, 0.1, 30), (1.0, 0.25, 4), (1.3, 0.1, 20)):
        for _ in range(steps):
            opacus.step(noise_multiplier=noise, sample_rate=rate)
    assert len(opacus.history) == 3
    expected = opacus.get_epsilon(1e-4, eps_error=0.01)
    assert example_epsilon(opacus.history, 1e-4) == pytest.approx(expected, abs=0.012)


def test_steps_are_added_over_rounds():
    once = example_epsilon([(1.0, 0.2, 12)], 1e-3)
    assert example_epsilon([(1.0, 0.2, 5), (1.0, 0.2, 7)], 1e-3) == once
    assert example_epsilon([(1.0, 1.0, 12)], 1e-3) > once  # a client smaller than a batch has no amplification
    assert example_epsilon([(1.0, 0.2, 12), (0.0, 0.2, 1)], 1e-3) == math.inf
    assert example_epsilon([], 1e-3) == example_epsilon([(0.0, 0.2, 0)], 1e-3) == 0.0


@pytest.mark.parametrize(
    ("history", "delta", "key"), [([(1.0, 1.5, 1)], 1e-3, "sample_rate"), ([(1.0, 0.5, 1)], 0.0, "delta")]
)
def test_a_wrong_number_is_named(history, delta, key):
    with pytest.raises(ConfigError) as error:
        example_epsilon(history, delta)
    assert error.value.key == key


def test_quantiles_are_epsilons_of_clients_and_the_largest_holds_for_all():
    found = epsilon_quantiles([float(value) for value in range(20, 0, -1)])
    assert found == {
        "privacy/epsilon": 20.0,
        "privacy/epsilon_lowest_tenth": 2.0,
        "privacy/epsilon_median": 10.0,
        "privacy/epsilon_highest_tenth": 18.0,
    }
    assert set(epsilon_quantiles([3.0]).values()) == {3.0}
