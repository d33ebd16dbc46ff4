"""A user's module, or a class or function that makes one, becomes a module of the federation's own."""

import pytest
import torch
from conftest import Quadratic
from lightning.pytorch import Trainer

from fedlit.client.module.factory import make_module
from fedlit.core.errors import ConfigError


def test_a_module_is_copied_without_its_trainer():
    module = Quadratic(3.0)
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    copied = make_module(module)
    copied.w.data += 1
    assert (module.w.item(), copied.w.item()) == (3.0, 4.0)
    assert copied._trainer is None


def test_a_class_and_a_function_make_the_module():
    assert isinstance(make_module(Quadratic), Quadratic)
    assert make_module(lambda: Quadratic(2.0)).w.item() == 2.0


class Uncopyable(Quadratic):
    def __deepcopy__(self, memo):
        raise RuntimeError("only once")


@pytest.mark.parametrize(
    ("source", "value", "problem"),
    [
        (torch.nn.Linear(2, 1), "Linear", "is a torch.nn.Module, and clients train a LightningModule"),
        (7, "int", "is neither a LightningModule nor callable"),
        (torch.nn.Identity, "Identity", "makes a Identity, and clients train a LightningModule"),
        (Uncopyable(), "Uncopyable", "cannot be copied: RuntimeError: only once; give a function that makes it"),
    ],
)
def test_anything_else_is_an_error_that_says_what_to_give(source, value, problem):
    with pytest.raises(ConfigError) as error:
        make_module(source)
    assert (error.value.key, error.value.value) == ("model", value)
    assert problem in str(error.value)
