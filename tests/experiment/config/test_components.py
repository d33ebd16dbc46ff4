"""The model's input shape and number of classes are checked against those of the data."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import Dataset, TensorDataset

from fedlit.core.errors import ConfigError
from fedlit.data.custom import to_data
from fedlit.data.datamodule import LightningDataModule
from fedlit.experiment.config.components import constructor_arguments, make_model

MODEL = {
    "_target_": "fedlit.models.Classifier",
    "network": "fedlit.models.MLP",
    "shape": None,
    "classes": None,
    "optimizer": {"name": "sgd", "lr": 0.1},
}


class Unlabelled(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.zeros(6), 1


class Text(Unlabelled):
    targets = (0, 1, 0, 1)

    def __getitem__(self, index):
        return "word", 1


def numbers(*labels):
    return TensorDataset(torch.zeros(len(labels), 6), torch.tensor(labels))


@pytest.mark.parametrize(
    ("dataset", "key", "problem"),
    [
        (Unlabelled(), "classes", "needs classes, and your data has none: it has no `targets` or `labels`"),
        (numbers(5, 99_000_000), "classes", "needs classes, and your data has none: its labels are not classes"),
        (Text(), "shape", "needs the shape of an input, and that of your data is unknown"),
    ],
)
def test_a_value_that_the_data_lacks_is_an_error_that_says_why(dataset, key, problem):
    with pytest.raises(ConfigError) as error:
        make_model(MODEL, to_data((dataset, dataset), 0), 0)
    assert (error.value.key, error.value.value) == (key, "null")
    assert problem in str(error.value)


def test_a_value_that_the_data_lacks_can_be_given():
    data = to_data((Unlabelled(), Unlabelled()), 0)
    assert make_model({**MODEL, "classes": 2}, data, 0)(torch.zeros(1, 6)).shape == (1, 2)


def test_another_shape_is_refused_unless_hooks_of_a_data_module_may_change_it():
    data = to_data((numbers(0, 1), numbers(0, 1)), 0)
    with pytest.raises(ConfigError, match=r"shape=.*does not fit your data"):
        make_model({**MODEL, "shape": [3]}, data, 0)
    make_model({**MODEL, "shape": [3]}, replace(data, datamodule=LightningDataModule()), 0)


class Own(LightningModule):
    def __init__(self, shape, width=3, metric=None, layers=None):
        super().__init__()
        self.layer = torch.nn.Linear(shape[0], width)


def make_own(shape, width):
    return Own(shape, width)


def test_the_plain_arguments_of_a_class_are_kept_for_its_checkpoint():
    data = to_data((numbers(0, 1, 0), numbers(0, 1)), 0)
    metric = {"_target_": "torchmetrics.MeanMetric"}
    node = {"_target_": f"{__name__}.Own", "shape": None, "width": 5, "init_from": None}
    module = make_model(node, data, 0)
    assert constructor_arguments(module, {**node, "metric": metric, "layers": [[metric]]}, data) == {
        "shape": [6],
        "width": 5,
    }
    assert constructor_arguments(module, {**node, "_target_": f"{__name__}.make_own"}, data) == {}
    assert constructor_arguments(module, {}, data) == {}
