"""Federations of ragged clients, for stacked models beside single ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from small import holdings
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.streams import Purpose, seeded
from fedlit.data import TensorSamples
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

SIZES = (23, 7, 16, 10, 1, 0)  # in batches of five: 5, 2, 4, 2, 1 and 0 batches, the last of 3, 2, 1, 5 and 1
INPUTS, CLASSES = 6, 3


class Dense(LightningModule):
    """A small classifier that logs; tests change one thing.

    Args:
        optimizer: function of the parameters that returns what `configure_optimizers` returns.
        norm: layer between the two linear ones.
    """

    def __init__(self, optimizer=None, norm=nn.ReLU):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(INPUTS, 8), norm(), nn.Linear(8, CLASSES)
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro", validate_args=False)
        self.optimizer = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))

    def forward(self, x):
        return self.head(self.norm(self.body(x)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.accuracy(logits.argmax(1), y)
        self.log("loss", loss, on_epoch=True)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def samples(count, seed=0):
    """Samples of a linear problem."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, INPUTS, generator=generator)
    return TensorSamples(x, (x @ torch.randn(INPUTS, CLASSES, generator=generator)).argmax(1))


def ragged(
    module=None, algorithm=None, options=None, data=None, sizes=SIZES, epochs=2, rounds=2, callbacks=list, **schedule
):
    """A federation whose clients have very different numbers of samples.

    Args:
        module: function that makes the module.
        algorithm: the algorithm; it is bound to the module.
        options: arguments of the Trainers.
        data: samples of all clients.
        sizes: samples of each client.
        epochs, rounds: local work, and rounds of the run.
        callbacks: function that makes the callbacks of a fit.
        schedule: further arguments of Schedule.
    """
    plan = Schedule(rounds=rounds, client_fraction=1.0, local_epochs=epochs, **schedule)
    config = plan.configure(TrainerConfig({"accelerator": "cpu", **(options or {})}, callbacks))
    with seeded(3, Purpose.INIT):
        replica = ModuleReplica((module or Dense)(), config.dtype)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    shards = holdings(data or samples(sum(sizes)), owner, len(sizes), batch=5)
    algorithm = (algorithm or FedAvg()).bind(replica.module, replica.read())
    worker = ClientWorker(algorithm, replica, config, shards)
    return Federation.assemble(
        initial=replica.read(), worker=worker, sampler=Uniform(len(sizes)), schedule=plan, monitor=Monitor(None)
    )


def with_executor(federation, executor):
    """The same federation with another executor."""
    return replace(federation, executor=executor)


def largest_difference(records, others):
    """The largest difference of a parameter, a buffer or a logged value of two runs, relative to its size."""
    differences = [0.0]
    for one, other in zip(records, others, strict=True):
        assert one.failures == other.failures
        assert one.cohort == other.cohort
        assert {k for k in one.metrics if "difference" not in k} == {k for k in other.metrics if "difference" not in k}
        for name, tensor in one.model.state_dict().items():
            second = other.model.state_dict()[name]
            assert tensor.dtype == second.dtype
            scale = max(1e-3, float(tensor.double().abs().max())) if tensor.numel() else 1.0
            differences.append(float((tensor.double() - second.double()).abs().max()) / scale)
        for name, value in one.metrics.items():
            if not name.startswith("time/") and "difference" not in name:
                differences.append(abs(value - other.metrics[name]) / max(1.0, abs(value)))
    return max(differences)
