"""A partition of the user: a function of samples and generator, a function that makes a partitioner, or a class."""

import pickle
import sys

import numpy as np
import pytest
import torch

from fedlit.core.errors import ConfigError
from fedlit.data import Iid, Population, TensorSamples
from fedlit.experiment.config.settings import make_partitioner

SAMPLES = TensorSamples(torch.zeros(12, 1), torch.arange(12) % 4)
MINE = """
from fedlit.data import Iid, Partitioner, Population

def by_label(samples, generator, labels=2):
    owner = samples.labels() // labels
    return Population.of(owner, clients=owner.max() + 1)

def random(samples, generator, *, clients: int):
    return Population.of(generator.integers(clients, size=len(samples)), clients)

def make(clients=3):
    return Iid(clients)

def nothing(a, b, c):
    return None

class Mine(Partitioner):
    def __init__(self, clients: int = 2):
        self.clients = clients

    def __call__(self, samples, generator):
        return Population.of(generator.integers(self.clients, size=len(samples)), self.clients)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_partitions.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_partitions", None)


def node(name, **values):
    return {"_target_": f"own_partitions.{name}", **values}


@pytest.mark.parametrize(
    ("target", "clients"),
    [
        (node("by_label"), 2),
        (node("by_label", labels=1), 4),
        (node("random", clients=5), 5),
        (node("random", clients=5, _partial_=True), 5),
        (node("make"), 3),
        (node("make", clients=4), 4),
        (node("Mine", clients=6), 6),
        ({"_target_": "fedlit.data.Iid", "num_clients": 7}, 7),
    ],
)
def test_each_kind_of_partition_makes_a_population(target, clients):
    partition = pickle.loads(pickle.dumps(make_partitioner(target)))
    population = partition(SAMPLES, np.random.default_rng(0))
    assert isinstance(population, Population)
    assert len(population) == clients
    assert population.samples == 12


def test_a_function_has_the_result_of_its_call():
    population = make_partitioner(node("by_label", labels=1))(SAMPLES, np.random.default_rng(0))
    assert [population.shard(client).tolist() for client in range(4)] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert isinstance(make_partitioner(node("make")), Iid)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (node("by_label", label=1), "is not an argument of by_label; it takes samples, generator, labels"),
        (node("nothing"), "cannot be created: TypeError: nothing() missing 3 required positional arguments"),
        (node("random", clients="many"), "must be a whole number"),
    ],
)
def test_a_wrong_argument_is_an_error(target, problem):
    with pytest.raises(ConfigError) as error:
        make_partitioner(target)
    assert problem in str(error.value)
