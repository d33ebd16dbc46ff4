"""What does not go together is an error, what may not be meant a warning."""

from dataclasses import replace

import pytest
import torch
from test_build import built, mistakes

from fedlit.algorithms import FedAvg
from fedlit.algorithms.algorithm import Algorithm
from fedlit.core.errors import ConfigError
from fedlit.data import Data, Iid, TensorSamples
from fedlit.data.checks import check_labels
from fedlit.data.protocols import Partitioner
from fedlit.executors import Inline
from fedlit.executors.executor import Executor
from fedlit.experiment.observers.observer import Observer
from fedlit.server.checks import require_methods

SYNTHETIC = ["data=synthetic", "partition=natural", "model=logistic"]
HOSPITALS = ["data=heart_disease", "model=logistic"]


def warnings(*overrides):
    return [(warning.key, str(warning)) for warning in built(*overrides).warnings]


def test_the_defaults_warn_of_nothing():
    assert warnings() == []
    assert warnings(*HOSPITALS, "partition=natural") == []


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
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
        ([*HOSPITALS, "partition=iid", "partition.num_clients=4"], "partition", "whose test sets for each of its own"),
        (
            [*HOSPITALS, "partition=natural", "data.client_test_fraction=0.2"],
            "data.client_test_fraction",
            "takes the place of the test sets",
        ),
    ],
)
def test_what_may_not_be_meant_is_a_warning(overrides, key, said):
    ((given, text),) = warnings(*overrides)
    assert given == key
    assert said in text


def test_many_evaluations_are_warned_of():
    many = [
        *SYNTHETIC,
        "data.clients=20000",
        "data.samples=4",
        "data.client_test_fraction=0.5",
    ]
    assert [key for key, _ in warnings(*many, "eval.clients=all")] == ["eval.clients"]
    assert warnings(*many, "eval.clients=50") == []


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
    ("data", "said"),
    [
        (labelled([-1, 1]), "training labels from -1 to 1, but training has classes 0 to 1"),
        (labelled([-2, -1], classes=()), "training labels from -2 to -1"),
        (labelled([0, 1], [0, 2]), "test labels from 0 to 2"),
    ],
)
def test_labels_that_are_not_the_classes_are_a_mistake(data, said):
    mistake = check_labels(data)[0]
    assert mistake.key == "data"
    assert said in str(mistake)
    assert "number the classes from 0" in mistake.hint


def test_labels_of_classes_and_of_none_are_no_mistake():
    assert check_labels(labelled([0, 1])) == []
    assert check_labels(labelled([-1.5, 1.0], [-2.0], classes=())) == []
    assert check_labels(replace(labelled([0, 1]), test=None)) == []


@pytest.mark.parametrize(
    ("protocol", "made", "said"),
    [
        (Algorithm, object(), "no init and no client and no server and no model"),
        (Executor, object(), "no open"),
        (Partitioner, object(), "no __call__"),
        (Observer, object(), "no start and no round and no end and no close"),
    ],
)
def test_what_does_not_have_its_protocols_methods_is_a_mistake(protocol, made, said):
    with pytest.raises(ConfigError, match=said) as error:
        require_methods(made, protocol, "_target_", "my.Thing")
    assert error.value.key == "_target_"


def test_what_has_its_protocols_methods_goes_through():
    for made, protocol in ((FedAvg(), Algorithm), (Inline(), Executor), (Iid(2), Partitioner)):
        assert require_methods(made, protocol, "_target_", "") is made


def test_what_does_not_speak_is_found_where_it_is_made():
    found = mistakes(
        *("algorithm=custom", "algorithm._target_=builtins.object", "executor=inline"),
        *("executor._target_=builtins.object", "~executor.threads", "+observers.mine={_target_:builtins.object}"),
    )
    assert {"algorithm._target_", "executor._target_", "observers.mine._target_"} == set(found)
