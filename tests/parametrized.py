"""Modules with torch's parametrizations, and federations of them."""

import torch
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


class Scaled(nn.Module):
    def forward(self, weight):
        return 2.0 * weight

    def right_inverse(self, weight):
        return weight / 2.0


def twice(layer):
    return parametrize.register_parametrization(parametrizations.weight_norm(layer), "weight", Scaled())


PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "two": twice,
}


class Regression(LightningModule):
    """A network of one hidden layer; `change` changes the hidden layer."""

    def __init__(self, change):
        super().__init__()
        torch.manual_seed(3)
        self.hidden, self.out = change(nn.Linear(2, 2)), nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return (self.out(torch.tanh(self.hidden(batch[0]))) - 1.0).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def worker_of(module):
    """A worker with two clients of two samples each."""
    rows = [(1.0, 2.0), (0.5, -1.0), (3.0, 0.0), (1.0, 1.0)]
    data = holdings(pairs(*rows), [0, 0, 1, 1], batch=1)
    return ClientWorker(FedAvg(), ModuleReplica(module), TrainerConfig({"accelerator": "cpu"}, epochs=2), data)


def federation_of(worker):
    """A federation of two rounds with both clients."""
    schedule = Schedule(rounds=2, client_fraction=1.0)
    parts = {"sampler": Uniform(2), "schedule": schedule, "monitor": Monitor(None)}
    return Federation.assemble(initial=worker.replica.read(), worker=worker, **parts)
