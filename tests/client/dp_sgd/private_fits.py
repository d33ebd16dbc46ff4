"""Small private fits for tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from small import holdings
from torch import nn

from fedlit.algorithms import FedAvg
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import ServerState, Shared
from fedlit.data import TensorSamples

HUGE = 1e9
"""A clip that shortens no gradient."""


class Tiny(LightningModule):
    """A network of two layers for samples of four numbers and three classes.

    Args:
        layers: layers instead of the two.
        lr: learning rate of plain SGD.
    """

    def __init__(self, *layers, lr=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(*(layers or (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))))
        self.lr = lr

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def samples(count, seed=0):
    """Random samples of four numbers and three classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return TensorSamples(x, torch.randint(0, 3, (count,), generator=generator))


def worker(module=None, privacy=None, data=None, batch=5, options=None, callbacks=list, **work):
    """A worker whose clients train by DP-SGD.

    Args:
        module: the module; None for a Tiny.
        privacy: arguments of ExamplePrivacy; None for training without privacy.
        data: client data; None for one client with 20 samples.
        batch: expected examples in a batch, or `full`.
        options: arguments of the Trainers.
        callbacks: function that makes the callbacks of a fit.
        work: `epochs` or `steps`.
    """
    data = data or holdings(samples(20), batch=batch)
    settings = None if privacy is None else ExamplePrivacy(**privacy)
    config = TrainerConfig({"accelerator": "cpu", **(options or {})}, callbacks, privacy=settings)
    return ClientWorker(FedAvg(), ModuleReplica(module or Tiny()), replace(config, **work), data)


def facts_of(sizes, **more):
    """Facts about a federation of clients with these numbers of examples."""
    sizes = np.array(sizes)
    return FederationFacts(sizes=sizes, cohort_size=1, splits=(), has_client_tests=False, module="Mine", **more)


def fit(worker, *terms, client=0, round=0, client_state=None, **options):
    """One private fit from the module's own weights.

    Returns:
        The result, and the client's local training.
    """
    state = ServerState(round, Shared(initial(worker)))
    local, _ = ClientWorker.dry_run(
        replace(worker, algorithm=_Once(terms, options)), client, state, client_state or {}, None, []
    )
    return local.results[0] if local.results else None, local


def initial(worker):
    """The weights of a module that is always the same."""
    if not hasattr(worker.replica, "first"):
        worker.replica.first = worker.replica.read()
    return worker.replica.first


class _Once(FedAvg):
    def __new__(cls, *_):
        return object.__new__(cls)

    def __init__(self, terms, options):
        super().__init__()
        object.__setattr__(self, "arguments", (terms, options))

    def client(self, local, shared, client_state):
        terms, options = self.arguments
        local.fit(self.model(shared), *terms, **options)


def moved(worker, result):
    """The change of all parameters as one vector, shape (d,)."""
    start, end = initial(worker).parameters, result.model.parameters
    return torch.cat([(end[name] - old).double().flatten() for name, old in start.items()])
