"""The schedule: cohort sizes, learning rates, evaluated rounds, and errors."""

import math

import numpy as np
import pytest

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.server.schedule import Schedule


@pytest.mark.parametrize(("fraction", "clients", "size"), [(0.3, 10, 3), (0.29, 100, 29), (0.01, 10, 1), (1.0, 7, 7)])
def test_the_cohort_is_the_rounded_fraction_and_at_least_one_client(fraction, clients, size):
    assert Schedule(client_fraction=fraction).cohort_size(clients) == size


def test_clients_per_round_overrides_the_fraction():
    assert Schedule(client_fraction=0.5, clients_per_round=3).cohort_size(100) == 3


def test_learning_rate_factors_follow_their_formulas():
    assert [Schedule().lr_factor(t) for t in (0, 19)] == [1.0, 1.0]
    assert [Schedule(lr="step", lr_every=2, lr_gamma=0.5).lr_factor(t) for t in range(5)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    cosine = Schedule(lr="cosine", rounds=4, lr_floor=0.2)
    assert [cosine.lr_factor(t) for t in (0, 2, 4)] == pytest.approx([1.0, 0.6, 0.2])


def test_the_last_round_is_always_evaluated():
    assert [t for t in range(7) if Schedule(rounds=7, eval_every=3).is_evaluated(t)] == [2, 5, 6]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rounds", 0),
        ("local_epochs", 0),
        ("eval_every", 0),
        ("lr_every", 0),
        ("clients_per_round", 0),
        ("local_steps", -1),
        ("client_fraction", 0.0),
        ("client_fraction", 1.5),
        ("lr", "linear"),
        ("lr_gamma", 0.0),
        ("lr_floor", 2.0),
        ("stop_at", math.inf),
    ],
)
def test_an_invalid_value_is_named_in_the_error(key, value):
    with pytest.raises(ConfigError) as error:
        Schedule(**{key: value})
    assert (error.value.key, error.value.value) == (key, value)


def test_the_quorum_is_at_most_the_largest_possible_cohort():
    def error_keys(quorum, **facts):
        sizes = np.ones(10, dtype=np.int64)
        facts = FederationFacts(sizes=sizes, cohort_size=3, splits=("val",), has_client_tests=False, **facts)
        return {error.key for error in Schedule(quorum=quorum).check(facts)}

    assert error_keys(4) == error_keys(11, max_cohort=10) == {"schedule.quorum"}
    assert error_keys(3) == error_keys(4, max_cohort=10) == set()
