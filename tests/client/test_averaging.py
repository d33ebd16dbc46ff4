"""Averages of weights: how far they follow, and algorithms that they do not go together with."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from small import holdings, pairs
from test_displacement import Slope
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fedlit.client.module.replica import ModuleReplica
from fedlit.client.steps.averaging import followed_share, slow_averages
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError

BATCHES = 5


def fit(make, epochs=2, guards_weights=False, module=None):
    replica, samples = ModuleReplica(module or Slope()), holdings(pairs(*[(1, 1)] * BATCHES), batch=1)
    config = TrainerConfig({"accelerator": "cpu"}, callbacks=make, epochs=epochs)
    x = replica.read()
    return x, LocalTrainer(replica, config, samples, BATCHES, 0, 0, guards_weights=guards_weights).fit(x)


class EveryEpoch(WeightAveraging):
    def should_update(self, step_idx=None, epoch_idx=None):
        return epoch_idx is not None


def swa(start):
    return lambda: StochasticWeightAveraging(0.1, swa_epoch_start=start, annealing_epochs=1)


AVERAGES = {
    "all steps": (WeightAveraging, 2, 0.55),
    "moving, short": (lambda: EMAWeightAveraging(decay=0.5), 2, 0.9),
    "moving, long": (lambda: EMAWeightAveraging(decay=0.999), 2, 0.1045),
    "moving, every second step": (lambda: EMAWeightAveraging(decay=0.5, update_every_n_steps=2), 2, 0.7125),
    "moving, from a step on": (lambda: EMAWeightAveraging(decay=0.9, update_starting_at_step=7), 2, 0.829),
    "moving, by a function of all": (lambda: WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.5)), 2, 0.9),
    "never begun": (lambda: EMAWeightAveraging(update_starting_at_step=100), 2, 0.0),
    "epochs": (EveryEpoch, 2, 0.75),
    "stochastic, from a share of the epochs on": (swa(0.5), 4, 0.5),
    "stochastic, from an epoch on": (swa(3), 4, 0.625),
    "stochastic, one epoch": (swa(0.8), 1, 0.0),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_the_share_is_that_of_a_fit_under_a_gradient_of_1(name):
    make, epochs, share = AVERAGES[name]
    x, y = fit(lambda: [make()], epochs)
    assert float(x.parameters["w"] - y.model.parameters["w"]) / (0.1 * y.steps) == pytest.approx(share, abs=1e-3)
    assert followed_share(make(), y.steps, epochs) == pytest.approx(share, abs=1e-3)


def test_a_slow_average_is_a_warning_and_one_that_never_moves_an_error():
    (slow,) = slow_averages([EMAWeightAveraging(decay=0.999), EMAWeightAveraging(decay=0.5), Callback()], 10, 2)
    assert str(slow).startswith(
        "trainer.callbacks=EMAWeightAveraging: averages over more steps than a client takes: after 10 steps in 2 epochs, "
        "the average has moved 10% of the distance that the weights have moved"
    )
    assert slow.warning
    (never,) = slow_averages([swa(0.8)()], 5, 1)
    assert "the average has moved 0% of the distance" in str(never)
    assert not never.warning
    assert slow_averages([EMAWeightAveraging(decay=0.999)], 60_000, 1) == []


@pytest.mark.parametrize("make", [WeightAveraging, lambda: EMAWeightAveraging(decay=0.5), swa(1)])
def test_an_average_has_no_displacement(make):
    _, y = fit(lambda: [make()])
    with pytest.raises(
        ConfigError, match="replaces the weights by an average, and the algorithm divides by the length"
    ):
        y.displacement  # noqa: B018


class Shrinks(Callback):
    """Changes the weights in one hook."""

    def __init__(self, hook):
        setattr(self, hook, self.shrink)

    @torch.no_grad()
    def shrink(self, trainer, pl_module, *_):
        pl_module.w.data.mul_(0.9)


class Projects(Slope):
    def training_step(self, batch, batch_idx):
        self.w.data.clamp_(-0.01, 0.01)
        return super().training_step(batch, batch_idx)


HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end", "on_train_end")


@pytest.mark.parametrize("change", [*HOOKS, "training_step"])
def test_weights_that_change_outside_of_steps_are_found(change):
    module = Projects() if change == "training_step" else Slope()
    callbacks = [Shrinks(change)] if change in HOOKS else []
    _, y = fit(lambda: callbacks, guards_weights=True, module=module)
    problem = r"=(Slope|Projects): has weights that change outside of optimizer steps \(w\), and the algorithm divides"
    with pytest.raises(ConfigError, match=problem):
        y.displacement  # noqa: B018


def test_weights_that_steps_alone_change_have_a_displacement():
    _, y = fit(list, guards_weights=True)
    assert y.displacement == {"w": pytest.approx(1.0), "v": pytest.approx(1.0)}
