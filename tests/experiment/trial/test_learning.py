"""A module that trains nothing is refused before round 1; one that skips batches, or has its own steps, is not."""

import pytest
import torch
from conftest import Quadratic, pairs
from torch import nn

from fedlit.algorithms import FedAvg, FedNova
from fedlit.client.trainer import TrainerConfig
from fedlit.data import Data, Iid
from fedlit.data.loading import Loading
from fedlit.experiment.trial.first_step import try_first_step
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*training_step. returned .None.", "ignore:.*configure_optimizers. returned"
)


def trial(module, algorithm=None, **schedule):
    """Errors of the trial of a federation of one client with ten samples, one a batch."""
    data = Data("pairs", pairs(*[(1.0, float(b)) for b in range(10)]), None, (2,), ())
    schedule = Schedule(rounds=1, client_fraction=1.0, **schedule)
    fed = Federation.of(
        lambda: module,
        data,
        Iid(1),
        algorithm or FedAvg(),
        schedule,
        loading=Loading(batch_size=1, val_fraction=0),
        trainer_config=TrainerConfig({"accelerator": "cpu"}),
        monitor=Monitor(None),
    )
    return [str(error) for error in try_first_step(fed, data)]


class NoReturn(Quadratic):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)


class NoOptimizer(Quadratic):
    def configure_optimizers(self):
        return None


class ManualWithoutStep(Quadratic):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.log("train/loss", self.training_loss(batch))


class FrozenBackbone(Quadratic):
    """The optimizer has only parameters that are frozen."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(1, 1).requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.backbone.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (NoReturn, "trains nothing: training_step returns no loss in 20 batches; return the loss"),
        (NoOptimizer, "trains nothing: it has no optimizer; return an optimizer of its parameters from configure_opt"),
        (ManualWithoutStep, "trains nothing: training_step makes no optimizer step in 20 batches"),
        (FrozenBackbone, "trains nothing: no parameter of its optimizers gets a gradient in 20 batches"),
    ],
)
def test_a_module_that_trains_nothing_is_refused_with_the_reason(kind, reason):
    (error,) = trial(kind(), local_epochs=2)
    assert error.startswith(f"model={kind.__name__}: {reason}")


class Skips(Quadratic):
    """Skips the first seven batches of each epoch."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx >= 7 else None


class ManualStep(Quadratic):
    """Moves its parameter by itself, without an optimizer."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.w -= 0.1 * (self.w - batch[0][:, 1].mean() - 1)

    def configure_optimizers(self):
        return None


class OwnOptimizer(ManualStep):
    """Steps an optimizer that Lightning does not know."""

    def training_step(self, batch, batch_idx):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        optimizer.zero_grad()
        self.training_loss(batch).backward()
        optimizer.step()


class RateZero(Quadratic):
    """A warm-up begins with a rate of 0: the gradients are there."""

    def __init__(self):
        super().__init__(lr=0.0)


@pytest.mark.parametrize("kind", [Skips, ManualStep, OwnOptimizer, RateZero])
def test_a_module_that_skips_batches_or_steps_by_itself_passes(kind):
    assert trial(kind()) == []


def test_a_module_that_skips_its_first_batches_passes_with_a_kept_optimizer_and_other_algorithms():
    class SkipsWithMomentum(Skips):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    assert trial(SkipsWithMomentum(), client_state="keep") == []
    assert trial(Skips(), FedNova()) == []
