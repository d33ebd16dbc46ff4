"""Modules, optimizers and callbacks that cannot be private, found before round 1."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from private_fits import Tiny, fit, initial, worker
from small import Quadratic as Loose
from small import holdings, pairs
from torch import nn

from fedlit.client.dp_sgd.independence import check_private_fit
from fedlit.core.errors import ConfigError


def trial(module=None, **setting):
    """Begin a private fit: see `check_private_fit`."""
    one = worker(module, {"noise_multiplier": 1.0}, **setting)
    config = one.trainer_config

    def make_trainer(first, **options):
        return config.make_trainer(first, *config.callbacks(), **config.duration, **options)

    check_private_fit(one.replica, make_trainer, one.data, 0)
    return one


class Loss(Tiny):
    """A module with another loss.

    Args:
        loss: function of outputs and labels.
        layers: see Tiny.
    """

    def __init__(self, loss, *layers):
        super().__init__(*layers)
        self.loss = loss

    def training_step(self, batch, batch_idx):
        return self.loss(self.net(batch[0]), batch[1])


class Optimizers(Tiny):
    """A module with other optimizers.

    Args:
        make: function that makes them from the module.
    """

    def __init__(self, make):
        super().__init__()
        self.make = make

    def configure_optimizers(self):
        return self.make(self)


class Penalty(Tiny):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0.1 * self.net[0].weight.square().sum()


class Tied(Tiny):
    """Uses a weight outside of its layer alone."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(F.linear(batch[0], self.net[0].weight)[:, :3], batch[1])


class Patches(Tiny):
    """A layer that sees each example as two."""

    def training_step(self, batch, batch_idx):
        z = self.net(batch[0].reshape(-1, 2)).reshape(len(batch[0]), 2, 3).mean(1)
        return F.cross_entropy(z, batch[1])


class Twice(Tiny):
    def training_step(self, batch, batch_idx):
        self.trainer.strategy.backward(super().training_step(batch, batch_idx), None)
        return super().training_step(batch, batch_idx)


class Statistics(nn.Module):
    """Keeps a mean of what it sees."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.seen = 0.9 * self.seen + 0.1 * x.detach().mean(0)
        return x


class Skips(Tiny):
    def training_step(self, batch, batch_idx):
        return None if batch_idx else super().training_step(batch, batch_idx)


class Bags(Tiny):
    def __init__(self):
        super().__init__(nn.EmbeddingBag(10, 3))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0].abs().long().clamp(max=9)), batch[1])


def plateau(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "train/loss"}}


def compiled():
    module = Tiny()
    module.net[0].compile()
    return module


REFUSED = {
    "BatchNorm": (lambda: Tiny(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), {}, r"net.1 \(BatchNorm1d\)"),
    "LSTM": (lambda: Tiny(nn.LSTM(4, 3)), {}, "opacus.layers"),
    "several optimizers": (
        lambda: Optimizers(lambda m: [torch.optim.SGD(m.net[i].parameters(), lr=0.1) for i in (0, 2)]),
        {},
        "multiple optimizers",
    ),
    "LBFGS": (lambda: Optimizers(lambda m: torch.optim.LBFGS(m.parameters())), {}, "losses of the examples"),
    "plateau": (lambda: Optimizers(plateau), {}, "follows a metric of the examples"),
    "compiled": (compiled, {}, "is compiled"),
    "early stopping": (Tiny, {"callbacks": lambda: [EarlyStopping("train/loss")]}, "ends a fit by a metric"),
    "accumulation": (
        Tiny,
        {"callbacks": lambda: [GradientAccumulationScheduler({0: 2})]},
        "adds up the gradients of several batches",
    ),
    "sum": (lambda: Loss(partial(F.cross_entropy, reduction="sum")), {}, "mixes the examples"),
    "class weights": (
        lambda: Loss(partial(F.cross_entropy, weight=torch.tensor([1.0, 5.0, 0.1]))),
        {},
        "mixes the examples",
    ),
    "centred outputs": (lambda: Loss(lambda z, y: F.cross_entropy(z - z.mean(0), y)), {}, "mixes the examples"),
    "penalty": (Penalty, {}, "a part that no layer computes"),
    "tied": (Tied, {}, "outside of its layer"),
    "patches": (lambda: Patches(nn.Linear(2, 3)), {}, "16 gradients for the 8 examples"),
    "own parameter": (lambda: Loose(), {"data": holdings(pairs(*[(1.0, 2.0)] * 8))}, "outside of its layer"),
    "statistics": (lambda: Tiny(Statistics(), nn.Linear(4, 3)), {}, "changes buffers in training"),
    "embedding bag": (lambda: Bags(), {}, "cannot begin a private fit"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "compiled" else ()) for name in REFUSED],
)
def test_it_is_refused_with_the_reason(name):
    make, setting, reason = REFUSED[name]
    with pytest.raises(ConfigError, match=reason):
        trial(make(), **setting)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_module_that_skips_batches_is_refused_in_its_fit():
    with pytest.raises(ConfigError, match="returns no loss for a batch"):
        fit(worker(Skips(), {"noise_multiplier": 1.0}, batch=2))


ALLOWED = {
    "plain": Tiny,
    "dropout": lambda: Tiny(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3)),
    "layer norm": lambda: Tiny(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)),
    "group norm": lambda: Tiny(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.Linear(8, 3)),
    "convolution": lambda: Tiny(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten()),
    "own layer": lambda: Tiny(Scaled(), nn.Linear(4, 3)),
    "Adam": lambda: Optimizers(lambda m: torch.optim.Adam(m.parameters())),
    "label smoothing": lambda: Loss(partial(F.cross_entropy, label_smoothing=0.1)),
    "constant buffer": lambda: WithBuffer(),
}


class Scaled(nn.Module):
    """A layer that Opacus does not know."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.scale


class WithBuffer(Tiny):
    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.arange(4.0))


class Frozen(Tiny):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
        for parameter in self.net[1].parameters():
            parameter.requires_grad_(False)
        self.net[1].eval()


@pytest.mark.parametrize("name", ALLOWED)
def test_it_is_allowed_and_left_as_it_was(name):
    one = worker(ALLOWED[name](), {"noise_multiplier": 1.0})
    before = initial(one)
    trial(one.replica.module)
    assert one.replica.read().equals(before)
    assert fit(one)[0].steps == 4


@pytest.mark.filterwarnings("ignore:Found 1 module")
def test_batch_statistics_of_a_frozen_layer_mix_examples_too():
    with pytest.raises(ConfigError, match="mixes the examples"):
        trial(Frozen())


def test_a_gradscaler_is_refused():
    from fedlit.client.dp_sgd.refusals import check_fit

    one = worker(Tiny(), {"noise_multiplier": 1.0})
    trainer = one.trainer_config.make_trainer()
    trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu")
    trainer.strategy.optimizers = [torch.optim.SGD(one.replica.module.parameters(), lr=0.1)]
    with pytest.raises(ConfigError, match="depends on the gradients"):
        check_fit(trainer, one.replica.module)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_rounding_of_a_precision_is_no_difference(precision):
    trial(Tiny(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3)), options={"precision": precision})
    with pytest.raises(ConfigError, match="mixes the examples"):
        trial(Loss(partial(F.cross_entropy, reduction="sum")), options={"precision": precision})
