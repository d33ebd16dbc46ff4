"""What a client's fit does to its Trainer and to the process does not reach the next client of the worker."""

import os
import signal
from contextlib import nullcontext

import pytest
import torch
from conftest import Quadratic, holdings, pairs
from lightning.pytorch import Callback
from torchmetrics import MeanMetric

from fedlit.client.fit import light_trainer
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import LocalTrainer, TrainerConfig

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
