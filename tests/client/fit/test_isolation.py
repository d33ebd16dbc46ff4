"""What a client's fit does to its Trainer and to the process does not reach the next client of the worker."""

import logging
import os
import random
import signal
import warnings
from contextlib import nullcontext

import lightning.pytorch.trainer.connectors.callback_connector as callback_connector
import lightning.pytorch.utilities.signature_utils as signature_utils
import numpy as np
import pytest
import torch
from conftest import Quadratic, holdings, pairs
from lightning.pytorch import Callback
from torchmetrics import MeanMetric

from fedlit.algorithms import FedAvg
from fedlit.client.fit import light_trainer
from fedlit.client.lightning_logging import LOGGER
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import FatalClientFailure
from fedlit.core.messages import ServerState, Shared, TrainJob

VARIABLE = "PL_TRAINER_GRADIENT_CLIP_VAL"
SPOILT = 100.0
"""Input of a client whose fit spoils all that it can reach."""


class Doubles(Callback):
    """Doubles the gradient of w."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        pl_module.w.grad *= 2


def _zero(parameter):
    parameter.grad.zero_()


class Spoils(Quadratic):
    """A module that changes its Trainer, its layers and the process if a client has certain inputs."""

    def __init__(self, fails=False):
        super().__init__(1.0, momentum=0.9)
        self.fails = fails
        self.layer, self.mean = torch.nn.Linear(1, 1), MeanMetric()

    def training_step(self, batch, batch_idx):
        if batch[0][0, 1] == SPOILT:
            self._spoil()
        self.mean.update(batch[0][:, 1])
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        self.log("noise", torch.rand(()))
        return super().training_step(batch, batch_idx) + self.layer(batch[0][:, :1]).mean()

    def _spoil(self):
        trainer = self.trainer
        trainer.callbacks.append(Doubles())
        trainer.gradient_clip_val, trainer.limit_train_batches = 1e-3, 1
        trainer.strategy.model_to_device = trainer.profiler.describe = lambda: self.double()
        self.layer.register_forward_hook(lambda *_: torch.full((1, 1), 9.0, requires_grad=True))
        self.register_forward_pre_hook(lambda *_: None)
        self.w.register_hook(lambda gradient: gradient * 3)
        self.w.register_post_accumulate_grad_hook(_zero)
        self.lr, self.training_loss = 5.0, lambda batch: self.w.sum() * 7
        self.layer.weight.requires_grad_(False)
        self.mean.update(1e6)
        os.environ[VARIABLE] = "0.001"
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        if self.fails:
            raise ZeroDivisionError


def fit(replica, value):
    data = holdings(pairs((1.0, value), (2.0, value + 1), (0.5, value)), batch=1)
    local = LocalTrainer(replica, TrainerConfig({"accelerator": "cpu"}, epochs=2), data, 3, 0, 0)
    result = local.fit(START)
    return {name: value.tolist() for name, value in result.model.parameters.items()}, result.metrics


START = ModuleReplica(Spoils()).read()


@pytest.fixture
def process(monkeypatch):
    """A process that has made no Trainer yet; its environment and its handlers are restored."""
    handler = signal.getsignal(signal.SIGUSR2)
    monkeypatch.delenv(VARIABLE, raising=False)
    light_trainer._has_environment_arguments.cache_clear()
    yield
    os.environ.pop(VARIABLE, None)
    light_trainer._has_environment_arguments.cache_clear()
    signal.signal(signal.SIGUSR2, handler)


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_a_client_trains_as_if_it_were_the_first_one_of_its_worker(fails):
    handler = signal.getsignal(signal.SIGUSR2)
    alone = fit(ModuleReplica(Spoils(fails)), 2.0)
    replica = ModuleReplica(Spoils(fails))
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        assert fit(replica, SPOILT) != alone
    assert os.environ[VARIABLE] == "0.001"
    assert fit(replica, 2.0) == alone
    assert signal.getsignal(signal.SIGUSR2) == handler


class Ends(Quadratic):
    """A module that draws numbers, and may end the process."""

    def __init__(self, error):
        super().__init__(1.0)
        self.error = error

    def training_step(self, batch, batch_idx):
        torch.rand(3), np.random.randn(3), random.random()
        if self.error is not None and batch[0][0, 1] == SPOILT:
            raise self.error
        return super().training_step(batch, batch_idx)


def process_state():
    """All of the process that a job changes and restores."""
    bits = np.random.get_bit_generator()
    return (
        (torch.get_rng_state().tolist(), random.getstate(), id(bits), str(np.random.get_state(legacy=False))),
        (
            callback_connector._load_external_callbacks,
            signature_utils.inspect,
            warnings.filters[:],
            warnings.showwarning,
        ),
        (logging.getLogger(LOGGER).level, torch.cuda._cached_device_count, torch.is_grad_enabled()),
        {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)},
        dict(os.environ),
    )


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt, SystemExit, FatalClientFailure])
def test_a_job_leaves_the_process_as_it_was_however_it_ends(error):
    np.random.seed(3)
    np.random.randn()  # the second number of the pair is kept for the next call
    replica, handler = ModuleReplica(Ends(error)), signal.getsignal(signal.SIGINT)
    rows = pairs((1.0, 1.0), (1.0, SPOILT), (1.0, 2.0))
    worker = ClientWorker(
        FedAvg(), replica, TrainerConfig({"accelerator": "cpu"}), holdings(rows, [0, 1, 2], clients=3)
    )
    before, state = process_state(), ServerState(0, Shared(replica.read()))
    try:
        stops = isinstance(error, type) and not issubclass(error, Exception)
        with pytest.raises(SystemExit) if stops else nullcontext():  # Lightning turns an interrupt into an exit
            result = worker(TrainJob(0, 0, (0, 1, 2)), state)
            assert [failure.client for failure in result.failures] == ([] if error is None else [1])
        ended = process_state()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert ended == before
