"""A federation trains an unmodified LightningModule to the bit as plain Lightning does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from equivalence import CLASSES, INPUTS, Net, Setting, compare
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR


def deep():
    return nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def net(build=deep, **methods):
    """A class of modules with other layers and methods."""

    def __init__(self):  # noqa: N807
        Net.__init__(self)
        self.net = build()

    return type("Module", (Net,), {"__init__": __init__, **methods})


def trained_by(optimizer, **options):
    """The method `configure_optimizers` with one optimizer over all parameters."""
    return lambda self: optimizer(self.parameters(), **{"lr": 0.05, **options})


def scheduled(make, interval="step", **optimizer):
    """A class of modules with one scheduler; ReduceLROnPlateau monitors the training loss."""

    def training_step(self, batch, batch_idx):
        loss = Net.training_step(self, batch, batch_idx)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), **{"lr": 0.1, "momentum": 0.5, **optimizer})
        config = {"scheduler": make(sgd), "interval": interval, "monitor": "train_loss"}
        return {"optimizer": sgd, "lr_scheduler": config}

    return net(training_step=training_step, configure_optimizers=configure_optimizers)


class HalvesEveryStep(lr_scheduler.LRScheduler):
    """A scheduler of the user."""

    def get_lr(self):
        return [base / 2**self.last_epoch for base in self.base_lrs]


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (1 + n)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 4], 0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.2, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5, eta_min=0.02),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, eta_min=0.01),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=20),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(
        o, patience=0, factor=0.1, threshold=0.5, min_lr=0.05
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.5, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=3),
    "scheduler of the user": lambda o: HalvesEveryStep(o),
}


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(INPUTS, INPUTS, bias=False), nn.Linear(INPUTS, INPUTS, bias=False))
        self.net[1].weight = self.net[0].weight

    def forward(self, inputs):
        return self.net(inputs)[:, :CLASSES]


class Shared(Net):
    """One layer under two names, called twice."""

    def __init__(self):
        super().__init__()
        layer = nn.Linear(INPUTS, INPUTS)
        self.net = nn.Sequential(layer, nn.Tanh(), layer)

    def forward(self, inputs):
        return self.net(inputs)[:, :CLASSES]


class Frozen(net()):
    def __init__(self):
        super().__init__()
        self.net[0].requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)


class Groups(net()):
    def configure_optimizers(self):
        groups = [
            {"params": self.net[0].parameters(), "momentum": 0.9, "nesterov": True},
            {"params": [self.net[2].weight], "lr": 0.3},
            {"params": [self.net[2].bias], "weight_decay": 0.2},
        ]
        return torch.optim.SGD(groups, lr=0.1)


class Scratch(Net):
    """A buffer outside of the state dict decides each step's loss."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return super().training_step(batch, batch_idx) * self.seen.item()


class Buffers(Net):
    """A running mean of the inputs, whole numbers and a boolean among the buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("empty", torch.zeros(0))

    def training_step(self, batch, batch_idx):
        self.mean.lerp_(batch[0].mean(0), 0.1)
        self.count += len(batch[0])
        return F.cross_entropy(self(batch[0] - self.mean), batch[1])


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, as its users write it: two evaluations of the closure in one step."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        pairs = [(p, group["rho"]) for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p, _ in pairs]).norm() + 1e-12
        moves = [p.grad * (rho / norm) for p, rho in pairs]
        for (p, _), move in zip(pairs, moves, strict=True):
            p.add_(move)
        with torch.enable_grad():
            closure()
        for (p, _), move in zip(pairs, moves, strict=True):
            p.sub_(move)
        self.base.step()
        return loss


class TwoOptimizers(Net):
    """Manual optimisation: two optimizers, each with a scheduler, one step every second batch."""

    def __init__(self):
        super().__init__()
        self.net = deep()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        body, head = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / 2)
        head.step()
        head.zero_grad()
        if batch_idx % 2 == 0:
            self.clip_gradients(body, 0.5, "norm")
            body.step()
            body.zero_grad()
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self):
        body = torch.optim.Adam(self.net[0].parameters(), lr=0.05)
        head = torch.optim.SGD(self.net[2].parameters(), lr=0.1, momentum=0.9)
        return [body, head], [lr_scheduler.ExponentialLR(o, 0.9) for o in (body, head)]


class Skips(net()):
    """Every third batch has no loss."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == 1 else super().training_step(batch, batch_idx)


class Compiled(net()):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager", dynamic=True)


class Backbone(Net):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(INPUTS, 5), nn.Linear(5, CLASSES)

    def forward(self, inputs):
        return self.head(self.backbone(inputs).tanh())

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class Warmup(Net):
    """Lightning's recipe of a warm-up, in `optimizer_step`."""

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1.0, (self.global_step + 1) / 3)
        optimizer.step(closure=closure)


class ShrinksWeights(Callback):
    """A callback that changes the weights after each batch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.99)


def norm_net(**options):
    return nn.Sequential(nn.Linear(INPUTS, 5), nn.BatchNorm1d(5, **options), nn.Linear(5, CLASSES))


def normalised(kind):
    return lambda: nn.Sequential(kind(nn.Linear(INPUTS, 5)), nn.Tanh(), nn.Linear(5, CLASSES))


def dropout_net():
    return nn.Sequential(nn.Linear(INPUTS, 20), nn.Dropout(0.5), nn.Linear(20, CLASSES))


def early():
    return [EarlyStopping("train_loss", patience=0, min_delta=1e9, check_on_train_epoch_end=True)]


def averages_epochs():
    return [StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=2)]


BATCHES = (8, 6)  # in batches of two: batch normalisation needs more than one sample

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD, foreach": (torch.optim.SGD, {"momentum": 0.9, "foreach": True}),
    "SGD, fused": (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "Adam": (torch.optim.Adam, {}),
    "AdamW, rate in a tensor": (torch.optim.AdamW, {"lr": torch.tensor(0.05), "foreach": False}),
    "AdamW, fused": (torch.optim.AdamW, {"fused": True, "amsgrad": True}),
    "RMSprop": (torch.optim.RMSprop, {"centered": True}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "LBFGS": (torch.optim.LBFGS, {"max_iter": 4}),
    "LBFGS, strong_wolfe": (torch.optim.LBFGS, {"max_iter": 4, "line_search_fn": "strong_wolfe"}),
    "SAM": (SAM, {"base": torch.optim.SGD}),
}

CASES = {
    "plain SGD": Setting(),
    "several epochs": Setting(epochs=3),
    "a number of steps": Setting(steps=7),
    "accumulation with a remainder": Setting(net(), {"accumulate_grad_batches": 3}, epochs=2),
    "clipping by norm": Setting(net(), {"gradient_clip_val": 0.3}),
    "clipping by value, with accumulation": Setting(
        net(), {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2}
    ),
    "limit_train_batches": Setting(options={"limit_train_batches": 0.5}, epochs=2),
    **{f"optimizer: {name}": Setting(net(configure_optimizers=trained_by(o, **more)), epochs=2)
       for name, (o, more) in OPTIMIZERS.items()},
    **{f"scheduler: {name}": Setting(scheduled(make), epochs=2) for name, make in SCHEDULERS.items()
       if name != "ReduceLROnPlateau"},
    "scheduler: ReduceLROnPlateau": Setting(scheduled(SCHEDULERS["ReduceLROnPlateau"], "epoch"), epochs=4),
    "scheduler by epoch": Setting(scheduled(SCHEDULERS["ExponentialLR"], "epoch"), epochs=3),
    "warm-up in optimizer_step": Setting(Warmup),
    "parameter groups": Setting(Groups),
    "a frozen layer": Setting(Frozen),
    "tied weights": Setting(Tied),
    "a shared layer": Setting(Shared),
    "BatchNorm": Setting(net(norm_net), sizes=BATCHES),
    "BatchNorm, momentum None": Setting(net(lambda: norm_net(momentum=None)), sizes=BATCHES, epochs=2),
    "BatchNorm without running statistics": Setting(net(lambda: norm_net(track_running_stats=False)), sizes=BATCHES),
    "buffers of the user": Setting(Buffers),
    "buffers that are not persistent": Setting(Scratch, epochs=2),
    "weight norm": Setting(net(normalised(parametrizations.weight_norm))),
    "spectral norm": Setting(net(normalised(parametrizations.spectral_norm))),
    "orthogonal weights": Setting(net(normalised(parametrizations.orthogonal))),
    "dropout": Setting(net(dropout_net), epochs=2),
    "skipped batches": Setting(Skips, epochs=2),
    "skipped batches, with accumulation": Setting(Skips, {"accumulate_grad_batches": 2}, epochs=2),
    "manual optimisation, two optimizers": Setting(TwoOptimizers, epochs=2),
    "a compiled part": Setting(Compiled, sizes=(4,), rounds=1),
    "precision 16-true": Setting(net(), {"precision": "16-true"}),
    "precision bf16-mixed": Setting(net(), {"precision": "bf16-mixed"}),
    "precision 64-true": Setting(net(), {"precision": "64-true"}, plain=lambda: net()().double(), rounds=3),
    "precision bf16-true": Setting(net(), {"precision": "bf16-true"}),
    "callback: EarlyStopping": Setting(scheduled(SCHEDULERS["ConstantLR"]), callbacks=early, epochs=5),
    "callback: GradientAccumulationScheduler": Setting(
        net(), callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 3})], epochs=2
    ),
    "callback: BackboneFinetuning": Setting(
        Backbone, callbacks=lambda: [BackboneFinetuning(1, lambda epoch: 1.5, verbose=False)], epochs=3
    ),
    "callback: StochasticWeightAveraging": Setting(net(), callbacks=averages_epochs, epochs=3),
    "callback: StochasticWeightAveraging, BatchNorm": Setting(
        net(norm_net), callbacks=averages_epochs, sizes=BATCHES, epochs=3
    ),
    "callback: EMAWeightAveraging": Setting(net(), callbacks=lambda: [EMAWeightAveraging(decay=0.8)], epochs=2),
    "callback that changes weights": Setting(callbacks=lambda: [ShrinksWeights()], epochs=2),
}  # fmt: skip


class LoadsState(Callback):
    """Loads an optimizer's state at the beginning of a fit."""

    def __init__(self, states):
        self.states = states

    def on_fit_start(self, trainer, pl_module):
        for optimizer, state in zip(trainer.optimizers, self.states, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def kept(make, **more):
    """A setting whose clients keep their optimizers' state from round to round."""
    states = {}

    def load(client):
        if client.number in states:
            client.trainer.callbacks.append(LoadsState(states[client.number]))

    def keep(client):
        states[client.number] = [optimizer.state_dict()["state"] for optimizer in client.trainer.optimizers]

    return Setting(make, schedule={"client_state": "keep"}, rounds=3, rule=load, after=keep, **more)


CASES |= {
    "kept optimizer: SGD with momentum": kept(net(configure_optimizers=trained_by(torch.optim.SGD, momentum=0.9))),
    "kept optimizer: Adam": kept(net(configure_optimizers=trained_by(torch.optim.Adam))),
    "kept optimizers: two of them": kept(TwoOptimizers),
}


UNIT = (
    "several epochs",
    "accumulation with a remainder",
    "clipping by norm",
    "optimizer: Adam",
    "scheduler: SequentialLR",
    "tied weights",
    "BatchNorm, momentum None",
    "dropout",
    "manual optimisation, two optimizers",
    "kept optimizer: SGD with momentum",
)
"""Cases for every run of the tests; all cases are run with the slow ones."""


@pytest.mark.parametrize(
    "name", [name if name in UNIT else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_federation_equals_plain_lightning_to_the_bit(name):
    comparison = compare(CASES[name])
    assert comparison.difference == CASES[name].tolerance == 0
    assert comparison.movement > 1e-3
