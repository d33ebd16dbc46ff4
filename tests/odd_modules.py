"""Modules whose state or hyperparameters a file cannot hold, for `data=digits` and other labelled samples."""

from functools import partial

import torch
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf
from torch.nn import functional
from torchmetrics import Metric


class Linear(LightningModule):
    """A linear classifier that logs `val_loss`."""

    def __init__(self, inputs=64, classes=10):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, classes))

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Lambda(Linear):
    """One of its hyperparameters cannot be pickled."""

    def __init__(self, activation=lambda x: x, width=3):
        super().__init__()
        self.save_hyperparameters()


class Classes(Linear):
    """Its hyperparameters are objects, as in many templates."""

    def __init__(self, network=None, optimizer=None, config=None):
        super().__init__()
        network = network or torch.nn.Linear(2, 2)
        optimizer = optimizer or partial(torch.optim.SGD, lr=0.1)
        config = config or OmegaConf.create({"a": [1, {"b": 2}]})
        self.save_hyperparameters({"networks": [network], "optimizer": optimizer, "config": config})


class Largest(Metric):
    """The largest value, from a list of all."""

    def __init__(self):
        super().__init__()
        self.add_state("values", [], "cat", persistent=True)

    def update(self, values):
        self.values.append(values)

    def compute(self):
        return torch.cat(self.values).max()


class ExtraState(Linear):
    """It has state that is not a tensor, a metric with a persistent list, and an object as a hyperparameter."""

    def __init__(self, network=None):
        super().__init__()
        self.save_hyperparameters({"networks": [network or torch.nn.Linear(2, 2)]})
        self.seen = {"start": torch.Size([7])}
        self.largest = Largest()

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.largest.update(self.net(batch[0])[:, 1])
        self.log("val_largest", self.largest)

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = state


class NeedsOptimizer(Linear):
    """Its hook reads optimizer states, which a checkpoint of weights does not have."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["first"] = checkpoint["optimizer_states"][0]


class AddsLambda(Linear):
    """Its hook adds what cannot be pickled."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = lambda: 0
