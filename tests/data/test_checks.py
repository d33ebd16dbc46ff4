"""Incompatible settings are errors; settings that are probably unintended are warnings."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from configured import build, errors_of

from fedlit.algorithms import FedAvg
from fedlit.algorithms.algorithm import Algorithm
from fedlit.core.errors import ConfigError, require_instance
from fedlit.data import (
    Classes,
    Data,
    Dirichlet,
    DirichletClient,
    Iid,
    Natural,
    Noise,
    Population,
    Quantity,
    Shards,
    TensorSamples,
)
from fedlit.data.checks import check_labels, check_num_clients
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading
from fedlit.data.protocols import FunctionPartitioner, Partitioner, as_partitioner
from fedlit.executors import Inline
from fedlit.executors.executor import Executor
from fedlit.experiment.observers.observer import Observer

SYNTHETIC = ["data=synthetic", "partition=natural", "model=logistic"]
HOSPITALS = ["data=heart_disease", "model=logistic"]


def warnings(*overrides):
    return [(warning.key, str(warning)) for warning in build(*overrides).warnings]


def test_defaults_give_no_warning():
    assert warnings() == []
    assert warnings(*HOSPITALS, "partition=natural") == []


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (["partition.alpha=0.01", "partition.num_clients=60"], "partition", "leaves 32 of 60 clients without examples"),
        (["data.val_fraction=0.002"], "data.val_fraction", "without class"),
        (["data.val_fraction=0.0001"], "data.val_fraction", "less than one sample"),
        (
            ["data.client_test_fraction=0.001"],
            "data.client_test_fraction",
            "holds out less than one sample of each client, so no client has its own test set",
        ),
        (["eval.clients=all"], "eval.clients", "evaluates no client: no client has its own test set"),
        (["eval.clients=5"], "eval.clients", "data.client_test_fraction=0.2 makes them"),
        (["schedule.eval_every=30"], "schedule.eval_every", "only the last round"),
        (
            [*SYNTHETIC, "data.val_samples=0", "data.test_samples=0"],
            "schedule.eval_every",
            "there are no examples to evaluate on",
        ),
        (
            [*HOSPITALS, "partition=iid", "partition.num_clients=4"],
            "partition",
            "the test sets of its clients are unused",
        ),
        (
            [*HOSPITALS, "partition=natural", "data.client_test_fraction=0.2"],
            "data.client_test_fraction",
            "replaces the test sets",
        ),
    ],
)
def test_probably_unintended_settings_are_warnings(overrides, key, problem):
    ((warning_key, text),) = warnings(*overrides)
    assert warning_key == key
    assert problem in text


def test_many_evaluations_give_a_warning():
    many_clients = [
        *SYNTHETIC,
        "data.clients=20000",
        "data.samples=4",
        "data.client_test_fraction=0.5",
    ]
    assert [key for key, _ in warnings(*many_clients, "eval.clients=all")] == ["eval.clients"]
    assert warnings(*many_clients, "eval.clients=50") == []


class Words(torch.utils.data.Dataset):
    labels = ("cat", "dog")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.zeros(1), self.labels[index]


def labelled(train, test=(0, 1), classes=("0", "1")):
    samples = [TensorSamples(torch.zeros(len(y), 1), torch.tensor(y)) for y in (train, test)]
    return Data("mine", samples[0], samples[1], (1,), classes)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (labelled([-1, 1]), "training labels from -1 to 1, but training has classes 0 to 1"),
        (labelled([-2, -1], classes=()), "training labels from -2 to -1"),
        (labelled([0, 1], [0, 2]), "test labels from 0 to 2"),
    ],
)
def test_labels_outside_the_classes_are_an_error(data, problem):
    error = check_labels(data)[0]
    assert error.key == "data"
    assert problem in str(error)
    assert "number the classes from 0" in error.hint


@pytest.mark.parametrize(
    "partition", [Dirichlet(2, 0.5), DirichletClient(2, 0.5), Classes(2)], ids=lambda p: type(p).__name__
)
def test_a_partition_by_classes_refuses_whole_numbers_that_are_no_classes(partition):
    prices = labelled([10, 99_000_000, 10, 5_000_000], classes=())
    with pytest.raises(ConfigError) as error:
        ClientData.of(prices, partition, Loading(), 0)
    assert error.value.key == "partition"
    assert "divides classes, but mine has 3 whole numbers from 10 to 99,000,000" in str(error.value)
    assert "use partition=iid, quantity or natural" in error.value.hint
    labelled_again = replace(prices, classes=("cheap", "dear"))
    assert len(ClientData.of(labelled_again, partition, Loading(), 0).population) == 2


@pytest.mark.parametrize(
    "partition", [Iid(2), Quantity(2, 1.0), Shards(2, 1), Noise(2, 0.1)], ids=lambda p: type(p).__name__
)
def test_other_partitions_take_a_target_of_regression(partition):
    data = ClientData.of(labelled([10, 99_000_000, 10, 5_000_000], classes=()), partition, Loading(), 0)
    assert data.population.samples == 4


def test_labels_of_classes_and_labels_without_classes_are_no_error():
    assert check_labels(labelled([0, 1])) == []
    assert check_labels(labelled([-1.5, 1.0], [-2.0], classes=())) == []
    assert check_labels(labelled([-250_000, 1_000_000], classes=())) == []  # a target of regression
    assert check_labels(replace(labelled([0, 1]), test=None)) == []


class AlgorithmWithoutModel(Algorithm):
    def init(self, model): ...

    def client(self, local, shared, client_state): ...

    def server(self, state, mean): ...


class ExecutorWithoutOpen(Executor): ...


class LooksLikeAnObserver:
    start = round = end = close = lambda *_: None


@pytest.mark.parametrize(
    ("base", "name", "part"),
    [
        (Algorithm, "fedlit.Algorithm", object()),
        (Executor, "fedlit.executors.executor.Executor", object()),
        (Observer, "fedlit.Observer", LooksLikeAnObserver()),
    ],
)
def test_a_part_that_is_no_instance_of_its_base_class_is_an_error(base, name, part):
    with pytest.raises(ConfigError) as error:
        require_instance(part, base, "_target_", "my.Thing", name)
    assert (error.value.key, error.value.value) == ("_target_", "my.Thing")
    assert error.value.problem == f"makes a {type(part).__name__}, which is not a {name}"
    assert error.value.hint == f"make its class a subclass of {name}"


def test_a_part_without_an_abstract_method_cannot_be_made():
    for part, method in ((AlgorithmWithoutModel, "model"), (ExecutorWithoutOpen, "open")):
        with pytest.raises(TypeError, match=f"abstract method '?{method}'?"):
            part()


def test_a_part_that_is_an_instance_of_its_base_class_is_accepted():
    for part, base in ((FedAvg(), Algorithm), (Inline(), Executor), (Observer(), Observer)):
        assert require_instance(part, base, "_target_", "", "") is part


def test_a_partitioner_is_returned_as_it_is_and_a_function_is_wrapped():
    iid = Iid(2)
    assert as_partitioner(iid) is iid
    wrapped = as_partitioner(lambda samples, generator: ("population", samples, generator))
    assert isinstance(wrapped, FunctionPartitioner)
    assert wrapped.declared_clients is None
    assert wrapped(1, 2) == ("population", 1, 2)


def test_an_object_that_is_not_callable_is_no_partitioner():
    with pytest.raises(ConfigError, match="is not callable, so it cannot be a partitioner") as error:
        as_partitioner(object())
    assert error.value.key == "_target_"


@dataclass(frozen=True)
class Halves(Partitioner):
    """A user's partitioner with a field of the same name as ours, and without a default."""

    num_clients: int
    shuffle: bool = False

    def __call__(self, samples, generator):
        return Population.of(np.arange(len(samples)) % self.num_clients, self.num_clients)


def test_a_users_partitioner_can_have_a_field_for_the_number_of_clients():
    assert [field.name for field in fields(Halves)] == ["num_clients", "shuffle"]
    with pytest.raises(TypeError, match="num_clients"):
        Halves()
    assert Halves(2).declared_clients is None
    assert len(Halves(2)(range(4), None)) == 2


def test_partitioners_with_a_number_of_clients_declare_it():
    for partition in (Iid(3), Dirichlet(3, 0.5), DirichletClient(3, 0.5), Shards(3), Classes(3), Quantity(3, 1.0)):
        assert partition.declared_clients == 3
    assert Noise(3, 0.1).declared_clients == 3
    assert Natural().declared_clients is None


def test_more_clients_than_samples_are_an_error():
    data = labelled([0, 1])
    for partition in (Iid(2), Natural(), as_partitioner(lambda samples, generator: None), None):
        assert check_num_clients(partition, data) == []
    (error,) = check_num_clients(Iid(3), data)
    assert (error.key, error.value) == ("partition.num_clients", 3)
    assert error.problem == "is more than the 2 training samples of mine"


def test_all_parts_that_are_no_instance_of_their_base_class_are_reported():
    errors = errors_of(
        *("algorithm=custom", "algorithm._target_=builtins.object", "executor=inline"),
        *("executor._target_=builtins.object", "~executor.threads", "+observers.mine={_target_:builtins.object}"),
        *("partition=natural", "partition._target_=builtins.object"),
    )
    expected = {"algorithm._target_", "executor._target_", "observers.mine._target_", "partition._target_"}
    assert set(errors) == expected
