"""The computed displacement equals that of torch's SGD in a fit."""

import pytest
import torch
from conftest import holdings, pairs
from lightning.pytorch import LightningModule
from quadratics import mutated
from torch import nn

from fedlit.client.module.replica import ModuleReplica
from fedlit.client.steps.displacement import SGDStep, displacement
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.core.errors import ConfigError
from fedlit.core.model import GradientTerm


class Slope(LightningModule):
    """A loss with gradient 1 for both of two parameters."""

    def __init__(self, groups=False, schedule=None, interval="step", kind=torch.optim.SGD, **options):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor([0.5])), nn.Parameter(torch.tensor([0.25]))
        self.groups, self.schedule, self.interval, self.kind, self.options = groups, schedule, interval, kind, options

    def training_step(self, batch, batch_idx):
        return (self.w + self.v).sum()

    def validation_step(self, batch, batch_idx): ...

    def configure_optimizers(self):
        parts = (
            [{"params": [self.w]}, {"params": [self.v], "lr": 0.5, "momentum": 0.0}]
            if self.groups
            else self.parameters()
        )
        optimizer = self.kind(parts, **{"lr": 0.1, **self.options})
        if self.schedule is None:
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}


def fit(module, *terms, epochs=2, lr_factor=None, **options):
    replica, samples = ModuleReplica(module), holdings(pairs(*[(1, 1)] * 5), batch=1)
    config = TrainerConfig({"accelerator": "cpu", **options}, epochs=epochs, lr_factor=lr_factor)
    x = replica.read()
    return x, LocalTrainer(replica, config, samples, 5, round=2, client=0).fit(x, *terms)


CASES = {
    "plain": ({}, {}),
    "momentum": ({"momentum": 0.9}, {}),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, {}),
    "dampening": ({"momentum": 0.9, "dampening": 0.3}, {}),
    "maximize": ({"momentum": 0.5, "maximize": True}, {}),
    "rates by step": ({"momentum": 0.9, "schedule": lambda step: 1 / (1 + step)}, {}),
    "rates by step, in a tensor": ({"lr": torch.tensor(0.1), "schedule": lambda step: 1 / (1 + step)}, {}),
    "rates by epoch": ({"momentum": 0.9, "schedule": lambda epoch: 0.5**epoch, "interval": "epoch"}, {}),
    "rates by round": ({"momentum": 0.9}, {"lr_factor": lambda round: 0.5**round}),
    "groups": ({"momentum": 0.9, "groups": True}, {}),
    "accumulation": ({"momentum": 0.9}, {"accumulate_grad_batches": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_displacement_equals_that_of_a_fit_under_a_gradient_of_1(name):
    module, setting = CASES[name]
    x, y = fit(Slope(**module), **setting)
    expected = {key: float(x.parameters[key] - y.model.parameters[key]) for key in ("w", "v")}
    assert y.steps == (6 if name == "accumulation" else 10)
    assert y.displacement == pytest.approx(expected, rel=1e-5)


def test_a_proximal_term_shortens_the_displacement():
    x, y = fit(Slope(momentum=0.9))
    unbounded = y.displacement["w"]
    x, y = fit(Slope(momentum=0.9), GradientTerm(mu=0.7, center=x.parameters))
    assert y.displacement["w"] == pytest.approx(float(x.parameters["w"] - y.model.parameters["w"]), rel=1e-5)
    assert y.displacement["w"] < 0.8 * unbounded


def test_a_term_for_one_parameter_leaves_the_other_parameter():
    x, _ = fit(Slope())
    _, y = fit(Slope(), GradientTerm(mu=0.7, center={"w": x.parameters["w"]}))
    assert y.displacement["v"] == pytest.approx(1.0)
    assert y.displacement["w"] < 0.8


def test_weight_decay_does_not_count():
    assert fit(Slope(momentum=0.9, weight_decay=0.3))[1].displacement == fit(Slope(momentum=0.9))[1].displacement


@pytest.mark.parametrize(
    ("rho", "alpha", "steps", "figure"),
    [(0.9, 0.1, 20, 6.55), (0.9, 0.1, 5, 10.3), (0.9, 0.0, 5, 13.1441)],
)
def test_displacement_has_the_values_of_an_independent_calculation(rho, alpha, steps, figure):
    assert displacement([SGDStep(1.0, rho)] * steps, alpha) == pytest.approx(figure, rel=5e-3)


def test_counting_the_proximal_term_twice_is_detected():
    mutant = mutated(
        "fedlit.client.steps.displacement",
        ("moved += lr * step", "moved = (1 - lr * mu) * (moved + lr * step)"),
    )
    steps = [SGDStep(1.0, 0.9)] * 20
    assert mutant.displacement(steps, 0.1) != pytest.approx(displacement(steps, 0.1), rel=0.05)


def test_parameters_without_an_optimizer_are_left_out(monkeypatch):
    monkeypatch.setattr(Slope, "configure_optimizers", lambda module: torch.optim.SGD([module.w], lr=0.1))
    assert fit(Slope())[1].displacement == {"w": pytest.approx(1.0)}


def test_an_optimizer_without_a_known_step_length_is_refused():
    _, y = fit(Slope(kind=torch.optim.Adam))
    with pytest.raises(ConfigError) as error:
        y.displacement  # noqa: B018
    assert (error.value.key, error.value.value) == ("model.optimizer", "Adam")
