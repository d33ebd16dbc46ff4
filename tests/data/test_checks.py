"""Incompatible settings are errors; settings that are probably unintended are warnings."""

from dataclasses import replace

import pytest
import torch
from test_build import built, mistakes

from fedlit.algorithms import FedAvg
from fedlit.algorithms.algorithm import Algorithm
from fedlit.core.errors import ConfigError
from fedlit.data import Data, Iid, Natural, TensorSamples
from fedlit.data.checks import check_labels, check_num_clients
from fedlit.data.protocols import FunctionPartitioner, as_partitioner
from fedlit.executors import Inline
from fedlit.executors.executor import Executor
from fedlit.experiment.observers.observer import Observer
from fedlit.server.checks import require_methods

SYNTHETIC = ["data=synthetic", "partition=natural", "model=logistic"]
HOSPITALS = ["data=heart_disease", "model=logistic"]


def warnings(*overrides):
    return [(warning.key, str(warning)) for warning in built(*overrides).warnings]


def test_defaults_give_no_warning():
    assert warnings() == []
    assert warnings(*HOSPITALS, "partition=natural") == []


@pytest.mark.parametrize(
    ("overrides", "key", "problem"),
    [
        (["partition.alpha=0.01", "partition.num_clients=60"], "partition", "have no sample"),
        (["data.val_fraction=0.002"], "data.val_fraction", "without class"),
        (["data.val_fraction=0.0001"], "data.val_fraction", "less than one sample"),
        (["schedule.eval_every=30"], "schedule.eval_every", "only the last round"),
        (
            [*SYNTHETIC, "data.val_samples=0", "data.test_samples=0"],
            "schedule.eval_every",
            "nothing to evaluate on",
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


def test_labels_of_classes_and_labels_without_classes_are_no_error():
    assert check_labels(labelled([0, 1])) == []
    assert check_labels(labelled([-1.5, 1.0], [-2.0], classes=())) == []
    assert check_labels(replace(labelled([0, 1]), test=None)) == []


@pytest.mark.parametrize(
    ("protocol", "part", "problem"),
    [
        (Algorithm, object(), "no init and no client and no server and no model"),
        (Executor, object(), "no open"),
        (Observer, object(), "no start and no round and no end and no close"),
    ],
)
def test_a_part_without_the_methods_of_its_protocol_is_an_error(protocol, part, problem):
    with pytest.raises(ConfigError, match=problem) as error:
        require_methods(part, protocol, "_target_", "my.Thing")
    assert error.value.key == "_target_"


def test_a_part_with_the_methods_of_its_protocol_is_accepted():
    for part, protocol in ((FedAvg(), Algorithm), (Inline(), Executor)):
        assert require_methods(part, protocol, "_target_", "") is part


def test_a_partitioner_is_returned_as_it_is_and_a_function_is_wrapped():
    iid = Iid(2)
    assert as_partitioner(iid) is iid
    wrapped = as_partitioner(lambda samples, generator: ("population", samples, generator))
    assert isinstance(wrapped, FunctionPartitioner)
    assert wrapped.num_clients is None
    assert wrapped(1, 2) == ("population", 1, 2)


def test_an_object_that_is_not_callable_is_no_partitioner():
    with pytest.raises(ConfigError, match="is not callable, so it cannot be a partitioner") as error:
        as_partitioner(object())
    assert error.value.key == "_target_"


def test_as_many_clients_as_samples_are_allowed_and_more_are_an_error():
    data = labelled([0, 1])
    for partition in (Iid(2), Natural(), as_partitioner(lambda samples, generator: None), None):
        assert check_num_clients(partition, data) == []
    (error,) = check_num_clients(Iid(3), data)
    assert (error.key, error.value) == ("partition.num_clients", 3)
    assert "is more than the 2 samples" in error.problem


def test_parts_without_the_methods_of_their_protocols_are_all_reported():
    errors = mistakes(
        *("algorithm=custom", "algorithm._target_=builtins.object", "executor=inline"),
        *("executor._target_=builtins.object", "~executor.threads", "+observers.mine={_target_:builtins.object}"),
        *("partition=natural", "partition._target_=builtins.object"),
    )
    expected = {"algorithm._target_", "executor._target_", "observers.mine._target_", "partition._target_"}
    assert set(errors) == expected
