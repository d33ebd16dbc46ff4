"""Configurations as plain values, runs built from them, and their errors."""

from pathlib import Path

import pytest
from small import composed as compose_config

from fedlit.core.errors import ConfigErrors
from fedlit.experiment.config.build import build_run
from fedlit.experiment.config.plain import to_plain

MODULE = """
import torch
from lightning.pytorch import LightningModule

class Mine(LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.Linear(width, 10))

    def training_step(self, batch, batch_idx):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_nll", torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}
"""
"""A user's file with a module for `data=digits`."""


def compose_plain(*overrides):
    """The configuration of a run without observers, as plain values."""
    return to_plain(compose_config("observers=none", *overrides))


def build(*overrides, folder=Path("nowhere")):
    """The run of a configuration, ready for round 1."""
    return build_run(compose_plain(*overrides), folder, {})[0]


def errors_of(*overrides):
    """The text of each error in a configuration, by its key."""
    with pytest.raises(ConfigErrors) as error:
        build(*overrides)
    return {problem.key: str(problem) for problem in error.value.errors}
