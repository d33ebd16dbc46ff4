"""Small data, small modules and small federations for tests."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import LightningModule
from torch import nn

from fedlit.algorithms import FedAvg
from fedlit.cli.command_line import config_dir, config_loader
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.streams import Purpose, seeded, stream
from fedlit.data import Iid, Normalise, Population, TensorSamples
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading
from fedlit.data.samples import ClientTestSet
from fedlit.models import Classifier
from fedlit.server.evaluation import Evaluations
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

GROUPS = {path.relative_to(config_dir()).as_posix() for path in config_dir().rglob("*") if path.is_dir()}


def composed(*overrides):
    """The configuration that Hydra composes of overrides, without sweeps.

    Hydra composes each combination of choices once, since this is slow.
    """
    choices = tuple(text for text in overrides if text.partition("=")[0].partition("@")[0].lstrip("+~") in GROUPS)
    config = deepcopy(_compose(*choices))
    rest = OverridesParser.create().parse_overrides([text for text in overrides if text not in choices])
    ConfigLoaderImpl._apply_overrides_to_config(rest, config)
    return config


@cache
def _compose(*choices):
    with nullcontext() if GlobalHydra.instance().is_initialized() else config_loader():
        return compose("config", list(choices))


class Quadratic(LightningModule):
    """A module with one parameter w and samples (a, b).

    The loss is the batch's mean of a / 2 * (w - b)^2.
    """

    def __init__(self, start=0.0, lr=0.1, **optimizer):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start]))
        self.lr, self.options = lr, optimizer

    def training_step(self, batch, batch_idx):
        a, b = batch[0][:, 0], batch[0][:, 1]
        loss = (a / 2 * (self.w - b) ** 2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_loss(batch))

    def training_loss(self, batch):
        a, b = batch[0][:, 0], batch[0][:, 1]
        return (a / 2 * (self.w - b) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, **self.options)


def pairs(*rows):
    """Samples of a Quadratic, with rows (a, b)."""
    return TensorSamples(torch.tensor(rows, dtype=torch.float32), torch.zeros(len(rows), dtype=torch.int64))


def images(count, classes=3, seed=0):
    """Images of shape (1, 8, 8); the brightness depends on the class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    pixels = generator.integers(0, 60, (count, 1, 8, 8)) + labels[:, None, None, None] * 60
    return TensorSamples(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels), Normalise((0.5,), (0.5,)))


def federation(
    seed=0, clients=4, cohort=2, algorithm=None, norm="none", samples=120, dropout=0.5, recipe=None, **schedule
):
    """A federation of a SimpleCNN on `images`.

    Args:
        seed: seed of the federation.
        clients: number of clients.
        cohort: clients in a round.
        algorithm: the algorithm, not bound to the module; None for FedAvg.
        norm: normalisation layers of the network.
        samples: number of training samples.
        dropout: dropout rate of the network.
        recipe: settings of the clients' Trainers; None for the CPU.
        schedule: further arguments of Schedule.
    """
    train = images(samples)
    schedule = Schedule(**{"rounds": 3, "local_epochs": 1, "clients_per_round": cohort, **schedule})
    with seeded(seed, Purpose.INIT):
        module = Classifier(
            "fedlit.models.SimpleCNN",
            [1, 8, 8],
            3,
            {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            norm=norm,
            dropout=dropout,
        )
    replica = ModuleReplica(module)
    recipe = replace(
        recipe or TrainerConfig({"accelerator": "cpu"}),
        epochs=schedule.local_epochs,
        steps=schedule.local_steps,
        lr_factor=schedule.lr_factor,
    )
    population = Iid(clients)(train, stream(seed, Purpose.PARTITION))
    splits = {"val": images(30, seed=1), "test": images(40, seed=2)}
    data = ClientData(train, population, splits, Loading(batch_size=10, eval_batch_size=16), seed)
    worker = ClientWorker(algorithm or FedAvg(), replica, recipe, data)
    return Federation.assemble(
        initial=replica.read(),
        worker=worker,
        sampler=Uniform(schedule.cohort_size(clients)),
        schedule=schedule,
        monitor=Monitor(),
    )


def holdings(samples, owner=None, clients=None, batch="full", seed=0):
    """Client data without splits of the server.

    Args:
        samples: the training samples.
        owner: owner of each sample, shape (n,); None gives all samples to client 0.
        clients: number of clients; None for the largest owner + 1.
        batch: local batch size, or `full`.
        seed: seed of the order of batches.
    """
    owner = np.zeros(len(samples), dtype=np.int64) if owner is None else np.asarray(owner, dtype=np.int64)
    population = Population.of(owner, clients or int(owner.max(initial=0)) + 1)
    return ClientData(samples, population, {}, Loading(batch_size=batch, eval_batch_size=10), seed)


def ready(algorithm, **setting):
    """A federation of images whose algorithm is bound to the module.

    Args:
        algorithm: the algorithm.
        setting: further arguments of `federation`.
    """
    fed = federation(**{"norm": "batch", "dropout": 0.0, **setting})
    algorithm = algorithm.bind(fed.worker.replica.module, fed.initial)
    return fed.with_worker(replace(fed.worker, algorithm=algorithm))


def with_own(algorithm, **setting):
    """A bound federation that evaluates clients on their own training samples."""
    fed = replace(ready(algorithm, **setting), evaluations=Evaluations("all"))
    data = fed.worker.data
    data = replace(data, client_tests=ClientTestSet(data.train, data.population), splits={})
    return fed.with_worker(replace(fed.worker, data=data))
