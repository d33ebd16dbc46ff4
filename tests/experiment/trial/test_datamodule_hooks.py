"""Errors of a data module's hooks are errors of the data."""

from dataclasses import replace

import torch
from conftest import Quadratic
from lightning.pytorch import LightningDataModule
from test_first_step import PAIRS

from fedlit.algorithms import FedAvg
from fedlit.client.trainer import TrainerConfig
from fedlit.data import Data, Iid
from fedlit.data.loading import Loading
from fedlit.experiment.trial.first_step import try_first_step
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


class Raises(LightningDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        raise ValueError("no such transform")


class Counts(LightningDataModule):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.seen.append(1)
        return [batch[0] * len(self.seen), batch[1]]


class Doubles(LightningDataModule):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return [2 * batch[0] + 0.1 * torch.randn(1), batch[1]]


def errors_of(datamodule, module=None):
    data = replace(Data("pairs", PAIRS, PAIRS, (2,), ("0", "1"), PAIRS), datamodule=datamodule)
    federation = Federation.of(
        module or Quadratic(),
        data,
        Iid(2),
        FedAvg(),
        Schedule(),
        loading=Loading(batch_size=5, val_fraction=0),
        trainer_config=TrainerConfig({"accelerator": "cpu"}),
        monitor=Monitor("val/loss", "min"),
    )
    return try_first_step(federation, data)


def test_hooks_that_depend_on_the_batch_and_on_torchs_draws_pass():
    assert errors_of(Doubles()) == []


def test_an_exception_in_a_hook_is_an_error_of_the_data():
    (error,) = errors_of(Raises())
    assert (error.key, error.value) == ("data", "pairs")
    assert "ValueError: no such transform" in error.problem
    assert "on_after_batch_transfer" in error.problem


def test_state_that_a_hook_keeps_is_an_error_of_the_data():
    (error,) = errors_of(Counts())
    assert (error.key, error.value) == ("data", "pairs")
    assert "it keeps state from one fit to the next" in error.problem
    assert "hooks of batches" in error.hint


class KeepsState(Quadratic):
    seen = [0]  # noqa: RUF012  an attribute of the class is not restored

    def training_step(self, batch, batch_idx):
        self.seen[0] += 1
        return self.training_loss(batch) * self.seen[0]


def test_state_of_the_module_is_an_error_of_the_model_beside_a_data_module():
    (error,) = errors_of(Doubles(), KeepsState())
    assert error.key == "model"
