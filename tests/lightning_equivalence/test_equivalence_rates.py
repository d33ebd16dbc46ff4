"""Under `schedule.lr` each step has the module's own rate times the round's factor.

The reference is the same module with each of its rates multiplied by hand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from equivalence import Net, Setting, compare
from lightning.pytorch.callbacks import LambdaCallback, StochasticWeightAveraging
from test_equivalence import SAM, HalvesEveryStep
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

GAMMA = 0.25
ROUNDS = {"lr": "step", "lr_every": 1, "lr_gamma": GAMMA}


class Rated(Net):
    """A module that multiplies its rates by `factor`, which is 1 in the federation.

    `make` makes its optimizers from the parameters and the factor.
    """

    factor = 1.0
    automatic = True
    interval = "step"

    def __init__(self):
        super().__init__()
        self.automatic_optimization = self.automatic

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1 * self.factor, momentum=0.5)


def scheduled(make, interval="step"):
    """A class of modules with a scheduler; `make` takes the optimizer and the factor."""

    def configure_optimizers(self):
        optimizer = Rated.configure_optimizers(self)
        config = {"scheduler": make(optimizer, self.factor), "interval": interval, "monitor": "train_loss"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    return type("Scheduled", (Rated,), {"configure_optimizers": configure_optimizers})


def nested(optimizer, factor):
    warm_up, decay = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.5)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, 4, eta_min=0.02 * factor)
    inner = lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [2])
    return lr_scheduler.SequentialLR(optimizer, [inner, decay], [4])


def chained(optimizer, factor):
    linear, decay = lr_scheduler.LinearLR(optimizer, 0.5, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.5)
    return lr_scheduler.ChainedScheduler([nested(optimizer, factor), linear, decay])


SCHEDULERS = {
    "StepLR": lambda o, f: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiplicativeLR": lambda o, f: lr_scheduler.MultiplicativeLR(o, lambda n: 0.9),
    "CosineAnnealingLR, eta_min": lambda o, f: lr_scheduler.CosineAnnealingLR(o, 3, eta_min=0.05 * f),
    "CosineAnnealingWarmRestarts, eta_min": lambda o, f: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 1, 0.05 * f),
    "CyclicLR": lambda o, f: lr_scheduler.CyclicLR(o, 0.01 * f, 0.2 * f, step_size_up=2),
    "OneCycleLR": lambda o, f: lr_scheduler.OneCycleLR(o, 0.2 * f, total_steps=20),
    "SequentialLR in SequentialLR": nested,
    "ChainedScheduler of SequentialLR": chained,
    "SWALR": lambda o, f: SWALR(o, swa_lr=0.02 * f, anneal_epochs=3),
    "of the user": lambda o, f: HalvesEveryStep(o),
}


class InOptimizerStep(Rated):
    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * self.factor * min(1.0, (self.global_step + 1) / 3)
        optimizer.step(closure=closure)


class InSchedulerStep(scheduled(SCHEDULERS["StepLR"])):
    def lr_scheduler_step(self, scheduler, metric):
        for group in self.optimizers().param_groups:
            group["lr"] = 0.1 * self.factor * 0.9**self.global_step


class InTrainingStep(Rated):
    """Sets the rate while the optimizer's step runs."""

    def training_step(self, batch, batch_idx):
        self.optimizers().param_groups[0]["lr"] = self.factor / (10 + batch_idx)
        return super().training_step(batch, batch_idx)


class InHook(Rated):
    """Sets the rate in the last hook before the step."""

    def on_before_optimizer_step(self, optimizer):
        optimizer.param_groups[0]["lr"] = self.factor / (10 + self.global_step)


class InStepHook(Rated):
    """Sets the rate in a hook of torch."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_pre_hook(self.set_rate)
        return optimizer

    def set_rate(self, optimizer, args, kwargs):
        optimizer.param_groups[0]["lr"] = self.factor / (10 + self.global_step)


class Manual(Rated):
    """Two optimizers with schedulers, and a third one that the Trainer does not know."""

    automatic = False

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def on_fit_start(self):
        self.own = torch.optim.SGD([self.scale], lr=0.5 * self.factor)

    def training_step(self, batch, batch_idx):
        optimizers = [*self.optimizers(), self.own]
        self.manual_backward(F.cross_entropy(self(batch[0]) * self.scale, batch[1]))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        rates = zip(self.net.parameters(), (0.1, 0.3), strict=True)
        optimizers = [torch.optim.SGD([parameter], lr=rate * self.factor) for parameter, rate in rates]
        return optimizers, [lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in optimizers]


class TwoStepSAM(Rated):
    """Sharpness-aware minimisation under manual optimisation: the inner optimizer steps, not the outer one."""

    automatic = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers().optimizer
        self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
        optimizer.base.step()
        optimizer.zero_grad()

    def configure_optimizers(self):
        return SAM(self.parameters(), torch.optim.SGD, lr=0.1 * self.factor)


def optimised(kind, lr, **options):
    def configure_optimizers(self):
        return kind(self.parameters(), lr=lr * self.factor, **options)

    return type("Optimised", (Rated,), {"configure_optimizers": configure_optimizers})


def tensor_rate(self):
    return torch.optim.AdamW(self.parameters(), lr=torch.tensor(0.05 * self.factor), foreach=False)


def by_hand(client):
    client.module.factor = GAMMA**client.round
    for callback in client.trainer.callbacks:
        if isinstance(callback, StochasticWeightAveraging):
            callback._swa_lrs *= client.module.factor


def setting(make, **more):
    return Setting(make, **{"rounds": 3, "schedule": ROUNDS, "rule": by_hand, "tolerance": 1e-6, **more})


def averages_epochs():
    return [StochasticWeightAveraging(0.3, swa_epoch_start=1, annealing_epochs=1)]


def sets_rate(trainer, module, *_):
    trainer.optimizers[0].param_groups[0]["lr"] = module.factor / (10 + module.global_step)


CASES = {
    "SGD without a scheduler": setting(Rated),
    "AdamW": setting(optimised(torch.optim.AdamW, 0.05)),
    "AdamW, rate in a tensor": setting(type("TensorRate", (Rated,), {"configure_optimizers": tensor_rate})),
    "SGD, fused": setting(optimised(torch.optim.SGD, 0.1, fused=True)),
    "LBFGS": setting(optimised(torch.optim.LBFGS, 0.1, max_iter=3)),
    "SAM": setting(optimised(SAM, 0.1, base=torch.optim.SGD)),
    "SAM under manual optimisation": setting(TwoStepSAM),
    **{f"scheduler {name}": setting(scheduled(make), epochs=2) for name, make in SCHEDULERS.items()},
    "scheduler ReduceLROnPlateau, min_lr": setting(
        scheduled(lambda o, f: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.9, min_lr=0.05 * f), "epoch"),
        epochs=4,
    ),
    "rate set in optimizer_step": setting(InOptimizerStep),
    "rate set in lr_scheduler_step": setting(InSchedulerStep),
    "rate set in training_step": setting(InTrainingStep),
    "rate set in on_before_optimizer_step": setting(InHook),
    "rate set in a hook of the optimizer": setting(InStepHook),
    "rate set by a callback": setting(Rated, callbacks=lambda: [LambdaCallback(on_train_batch_start=sets_rate)]),
    "StochasticWeightAveraging": setting(Rated, callbacks=averages_epochs, epochs=3),
    "manual optimisation, three optimizers": setting(Manual),
}

UNIT = ("scheduler SequentialLR in SequentialLR", "rate set in optimizer_step", "rate set in a hook of the optimizer")


@pytest.mark.parametrize(
    "name", [name if name in UNIT else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")  # torch: of a nested SequentialLR
def test_each_step_has_the_modules_rate_times_the_factor(name):
    comparison = compare(CASES[name])
    assert comparison.difference <= CASES[name].tolerance
    factors = [record.metrics["schedule/lr_factor"] for record in comparison.records]
    assert factors == [1.0, GAMMA, GAMMA**2]


@pytest.mark.slow
def test_a_reference_without_the_factor_differs():
    assert compare(replace(CASES["SGD without a scheduler"], rule=None)).difference > 1e-3
