import numpy as np
import pytest

from fedlit.data import Population
from fedlit.data.population import gini

OWNER = np.array([2, 0, 2, 0, 2])


def test_shards_follow_the_owners():
    population = Population.of(OWNER, 4)
    assert [population.shard(client).tolist() for client in range(4)] == [[1, 3], [], [0, 2, 4], []]
    assert population.sizes.tolist() == [2, 0, 3, 0]
    assert len(population) == 4


def test_an_owner_out_of_range_is_refused():
    with pytest.raises(ValueError, match="names clients 0 to 2, but must name clients 0 to 1"):
        Population.of(OWNER, 2)


def test_statistics_equal_those_computed_by_hand():
    labels = np.array([0, 1, 0, 1, 1])
    statistics = Population.of(OWNER, 4).statistics(lambda index: labels[index], 2)
    assert statistics["sizes"] == [2, 0, 3, 0]
    assert statistics["label_counts"] == [[0, 2], [0, 0], [2, 1], [0, 0]]
    assert statistics["empty_clients"] == 2
    assert statistics["mean_total_variation"] == pytest.approx((2 / 5 + abs(2 / 3 - 2 / 5)) / 2)
    assert statistics["gini_of_sizes"] == pytest.approx(0.55)  # (2 * (3*2 + 4*3) - 5 * 5) / (4 * 5)


@pytest.mark.parametrize(("values", "expected"), [([5, 5, 5], 0), ([0, 0, 9], 2 / 3), ([0, 0], 0), ([1, 3], 0.25)])
def test_gini_equals_its_formula(values, expected):
    assert gini(np.array(values)) == pytest.approx(expected)


def test_statistics_list_a_sample_of_many_clients():
    population = Population(range(20_000), np.arange(0, 20_001, 4))
    statistics = population.statistics(lambda index: index % 2, 2)
    assert len(statistics["sizes"]) == len(statistics["listed"]) == len(statistics["label_counts"]) == 1000
    assert (statistics["clients"], statistics["quantiles_of_sizes"]["0.5"]) == (5000, 4.0)
    assert population.shard(3).tolist() == [12, 13, 14, 15]


def test_statistics_without_classes_have_no_label_counts():
    assert "label_counts" not in Population.of(OWNER, 4).statistics(lambda index: None, 0)


def test_a_random_part_of_each_shard_is_held_out_and_no_sample_is_lost():
    population = Population.of(np.repeat([0, 1, 2], [10, 1, 7]), 4)
    train, held_out = population.split_shards(0.3, np.random.default_rng(0))
    assert (train.sizes.tolist(), held_out.sizes.tolist()) == ([7, 1, 5, 0], [3, 0, 2, 0])
    for client in range(4):
        assert sorted([*train.shard(client), *held_out.shard(client)]) == sorted(population.shard(client))
    assert not np.array_equal(held_out.shard(0), population.split_shards(0.3, np.random.default_rng(1))[1].shard(0))


def test_statistics_list_fewer_clients_if_there_are_very_many_classes():
    population = Population(range(2000), np.arange(0, 2001, 4))
    statistics = population.statistics(lambda index: index % 20_000, 20_000)
    assert len(statistics["listed"]) == len(statistics["label_counts"]) == 50
    assert (statistics["clients"], statistics["listed"][-1]) == (500, 499)
    assert len(population.statistics(lambda index: index % 10, 10)["label_counts"]) == 500
