"""A trial of the files before round 1: what they leave out is a warning, what cannot be written is an error."""

import pytest
from conftest import images
from odd_modules import AddsLambda, Classes, ExtraState, Lambda, Linear, NeedsOptimizer

from fedlit.algorithms import FedAvg
from fedlit.client.trainer import TrainerConfig
from fedlit.data import Data, Iid
from fedlit.data.loading import Loading
from fedlit.experiment.trial.first_step import try_first_step
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


def errors_of(module):
    """Text and kind (True for a warning) of each error of a trial."""
    data = Data("images", images(40), None, (1, 8, 8), ("0", "1", "2"))
    parts = {"trainer_config": TrainerConfig({"accelerator": "cpu"}), "monitor": Monitor("val_loss", "min")}
    loading = Loading(batch_size=5, val_fraction=0.2)
    fed = Federation.of(lambda: module, data, Iid(2), FedAvg(), Schedule(rounds=1), loading=loading, **parts)
    return [(str(error), error.warning) for error in try_first_step(fed, data)]


@pytest.mark.parametrize("kind", [Linear, Classes])
def test_hyperparameters_that_can_be_pickled_are_written(kind):
    assert errors_of(kind()) == []


def test_hyperparameters_that_cannot_be_pickled_are_a_warning_of_lightning():
    with pytest.warns(UserWarning, match="removed from hparams because it cannot be pickled"):
        assert errors_of(Lambda()) == []


def test_state_that_is_no_tensor_is_left_out_of_safetensors_with_a_warning():
    ((text, warning),) = errors_of(ExtraState())
    assert warning
    names = "_extra_state, largest.values"
    assert f"has state that is not a tensor: model.safetensors is without {names}; model.ckpt has all of it" in text


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(NeedsOptimizer, "KeyError: 'optimizer_states'"), (AddsLambda, "AddsLambda.on_save_checkpoint")],
)
def test_a_hook_that_makes_a_file_impossible_is_an_error(kind, reason):
    ((text, warning),) = errors_of(kind())
    assert not warning
    assert "cannot be written as model.ckpt" in text
    assert reason in text
    assert "on_save_checkpoint gets a checkpoint without optimizer states" in text
