"""The sampler with a minimum separation: groups that take turns."""

import numpy as np
import pytest
from test_samplers import cohort, facts, is_close, shares

from fedlit.core.errors import ConfigError
from fedlit.core.facts import Sampling
from fedlit.server.sampling import MinSeparation


@pytest.mark.parametrize(
    ("clients", "size", "separation"), [(20, 4, 5), (23, 4, 5), (23, 2, None), (7, 3, 1), (5, 5, None)]
)
def test_the_rounds_of_a_client_are_apart(clients, size, separation):
    sampler = MinSeparation(size, separation)
    gap = sampler.sampling(clients).separation
    last = {}
    for number in range(30):
        ids = cohort(sampler, clients, number)
        assert len(ids) == size
        for client in ids.tolist():
            assert number - last.get(client, -100) >= gap
            last[client] = number


def test_the_largest_separation_is_the_default():
    assert MinSeparation(3).sampling(20) == Sampling("separated", size=3, separation=6)
    assert MinSeparation(3, 4).sampling(20) == Sampling("separated", size=3, separation=4)
    assert MinSeparation(30).sampling(20).separation == 1


@pytest.mark.slow
def test_clients_of_a_group_are_equally_likely():
    rounds = 6000
    assert is_close(shares(MinSeparation(2, 3), rounds, 12), 2 / 4 / 3, rounds / 3)


def test_groups_depend_on_the_seed_and_not_on_the_round():
    sampler = MinSeparation(4, 5)
    first = [set(cohort(sampler, 20, number).tolist()) for number in range(5)]
    assert [set(cohort(sampler, 20, number + 5).tolist()) for number in range(5)] == first  # groups of 4, all drawn
    assert [set(cohort(sampler, 20, number, seed=1).tolist()) for number in range(5)] != first
    assert set.union(*first) == set(range(20))


def test_groups_that_are_too_small_are_refused():
    (error,) = MinSeparation(4, 6).check(facts(np.ones(20)))
    assert error.key == "sampler.separation"
    assert "3 clients in a group" in error.problem
    assert "at most 5" in error.hint
    assert not list(MinSeparation(4, 5).check(facts(np.ones(20))))
    assert not list(MinSeparation(4).check(facts(np.ones(20))))


def test_a_separation_below_1_is_refused():
    with pytest.raises(ConfigError, match="separation"):
        MinSeparation(4, 0)
