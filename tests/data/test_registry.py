import numpy as np
import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.data import Data, Iid, Noise, Population, TensorSamples
from fedlit.data.client_data import ClientData, partition_sha256
from fedlit.data.loading import Loading
from fedlit.data.registry import ClientRegistry
from fedlit.data.samples import ClientTestSet


def samples(count, owner=None, clients=0):
    return TensorSamples(torch.arange(count), torch.zeros(count, dtype=torch.int64), owner=owner, clients=clients)


def make_data(partition, test_fraction=0.0, pooled=False, seed=3):
    data = Data("numbers", samples(20), samples(6), (1,), ("0",), val=samples(4))
    return ClientData.of(data, partition, Loading(client_test_fraction=test_fraction), seed, pooled)


def test_a_registry_holds_the_figures_of_the_data():
    registry = make_data(Iid(4), test_fraction=0.4).registry()
    assert registry.sizes.tolist() == [3, 3, 3, 3]
    assert len(registry) == 4
    assert (registry.splits, registry.num_client_tests, registry.seed) == (("val", "test"), 4, 3)
    assert not registry.is_pooled
    assert make_data(Iid(4)).registry().num_client_tests == 0


@pytest.mark.parametrize("pooled", [False, True])
def test_a_cohort_is_evaluated_and_with_pooled_data_every_client(pooled):
    data = make_data(Iid(4), test_fraction=0.4, pooled=pooled)
    registry = data.registry()
    assert (len(registry), registry.is_pooled) == (1 if pooled else 4, pooled)
    assert list(registry.clients_to_evaluate((0,))) == ([0, 1, 2, 3] if pooled else [0])
    assert list(data.clients_to_evaluate((0,))) == list(registry.clients_to_evaluate((0,)))


def test_a_registry_needs_no_samples():
    registry = ClientRegistry(sizes=np.array([5, 7]), splits=(), num_client_tests=0, seed=0, partition_sha256="0" * 64)
    assert (len(registry), registry.clients_to_evaluate((1,))) == (2, (1,))


def test_the_partition_digest_depends_on_owners_noise_and_test_sets():
    digests = [
        partition_sha256(data)
        for data in (
            make_data(Iid(4)),
            make_data(Iid(4), seed=4),
            make_data(Iid(5)),
            make_data(Noise(4, 0.1)),
            make_data(Iid(4), test_fraction=0.4),
            make_data(Iid(4), pooled=True),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert make_data(Iid(4)).registry().partition_sha256 == digests[0]


def test_the_partition_digest_of_a_range_depends_on_its_ends():
    natural = [
        ClientData(samples(8), Population(range(8), np.array(offsets)), {}, Loading(), 0)
        for offsets in ((0, 4, 8), (0, 4, 8), (0, 3, 8))
    ]
    first, same, other = (partition_sha256(data) for data in natural)
    assert first == same != other


def test_a_function_can_partition_and_an_object_that_is_not_callable_cannot():
    population = Population.of(np.arange(20) % 2, 2)
    assert make_data(lambda samples, generator: population).population is population
    with pytest.raises(ConfigError, match="cannot be a partitioner") as error:
        make_data(5)
    assert error.value.key == "partition._target_"


def test_clients_keep_the_test_sets_of_the_natural_partition_alone():
    owner = np.arange(8) % 2
    tests = ClientTestSet(samples(6), Population.of(np.arange(6) % 2, 2))
    data = Data("numbers", samples(8, owner, 2), None, (1,), ("0",), client_tests=tests)
    natural = ClientData.of(data, lambda samples, generator: samples.natural(), Loading(), 0)
    other = ClientData.of(data, lambda samples, generator: Population.of(1 - owner, 2), Loading(), 0)
    assert natural.client_tests is tests
    assert other.client_tests is None
