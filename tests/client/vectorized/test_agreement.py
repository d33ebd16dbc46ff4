"""Clients that train as one stacked model agree with clients that train one by one."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small import federation, ready
from stacks import INPUTS, SIZES, Dense, largest_difference, ragged, samples, with_executor
from torch import nn
from torch.optim import lr_scheduler

from fedlit.algorithms import (
    Ditto,
    FedAvg,
    FedNova,
    FedRep,
    Finetune,
    Moon,
    PersonalLayers,
    QFedAvg,
    Scaffold,
)
from fedlit.algorithms.feddyn import FedDyn
from fedlit.client.vectorized.together import StackTraining
from fedlit.core.messages import TrainJob
from fedlit.executors import Inline, Vectorized

pytestmark = pytest.mark.slow

TOLERANCE = 2e-5
"""Largest relative difference of a number after two rounds; the differences are rounding errors of float32."""

TOLERANCE_OF_IMAGES = 1e-3
"""The same for a convolutional network with batch norms, in which rounding errors grow with each step."""

WHOLE_BATCHES = (23, 7, 17, 10)
"""Sizes of clients without a batch of one sample, which a batch norm refuses."""


def difference(fed, group_size=4):
    """The largest relative difference between stacked and single clients."""
    single = list(with_executor(fed, Inline()).run())
    stacked = list(with_executor(fed, Vectorized(group_size)).run())
    assert not any(record.failures or record.lost for record in single)
    assert any(float(tensor.abs().max()) for tensor in single[-1].model.parameters.values())
    assert not single[-1].model.equals(fed.initial)
    return largest_difference(single, stacked)


ALGORITHMS = {
    "fedavg": FedAvg(),
    "fedprox": FedAvg(proximal=0.1),
    "fednova": FedNova(),
    "scaffold": Scaffold(),
    "scaffold of option 1": Scaffold(option=1),
    "feddyn": FedDyn(),
    "qfedavg": QFedAvg(),
    "moon": Moon(),
    "ditto": Ditto(),
    "fedrep": FedRep(head_epochs=2),
    "fedper": PersonalLayers(layers="last"),
    "fedbn": PersonalLayers(layers="norm"),
    "finetune": Finetune(),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_each_algorithm_agrees_on_ragged_clients(algorithm):
    assert (
        difference(ragged(partial(Dense, norm=partial(nn.BatchNorm1d, 8)), algorithm, sizes=WHOLE_BATCHES)) < TOLERANCE
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_each_algorithm_agrees_on_images(algorithm):
    assert difference(ready(algorithm, clients=5, cohort=5, samples=118, rounds=2)) < TOLERANCE_OF_IMAGES


OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.1),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "fused": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "foreach": partial(torch.optim.Adam, lr=0.01, foreach=True),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.01),
    "amsgrad": partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "adagrad": partial(torch.optim.Adagrad, lr=0.05, initial_accumulator_value=0.1, lr_decay=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.01, momentum=0.9, centered=True),
    "adadelta": partial(torch.optim.Adadelta, lr=1.0),
    "adamax": partial(torch.optim.Adamax, lr=0.01),
    "nadam": partial(torch.optim.NAdam, lr=0.01),
    "radam": partial(torch.optim.RAdam, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("client_state", ["reset", "keep"])
def test_each_optimizer_agrees_on_ragged_clients(optimizer, client_state):
    assert difference(ragged(partial(Dense, optimizer), client_state=client_state)) < TOLERANCE


def scheduled(make, **options):
    """An optimizer with a scheduler, of a module."""

    def configure(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.2, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), **options}}

    return configure


SCHEDULERS = {
    "epochs": scheduled(lambda o: lr_scheduler.StepLR(o, 1, gamma=0.3)),
    "steps": scheduled(lambda o: lr_scheduler.ExponentialLR(o, 0.8), interval="step"),
    "every second step": scheduled(lambda o: lr_scheduler.ExponentialLR(o, 0.8), interval="step", frequency=2),
    "one cycle": scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=50), interval="step"),
}


@pytest.mark.parametrize("configure", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_of_ragged_clients_follow_their_own_epochs_and_steps(configure):
    assert difference(ragged(partial(Dense, configure), epochs=3)) < TOLERANCE


class WholeFit(Dense):
    """A schedule that depends on the number of steps of the client's fit."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2)
        steps = self.trainer.estimated_stepping_batches
        return [optimizer], [{"scheduler": lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps), "interval": "step"}]


class OwnClock(Dense):
    """A loss that depends on the client's progress."""

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        factor = 1 + batch_idx + 10 * self.current_epoch + self.trainer.global_step
        return F.cross_entropy(logits, batch[1]) * factor / self.trainer.num_training_batches / 20


class LogsInAllWays(Dense):
    """Logs with all reductions, by step, by epoch and by both."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("least", loss, on_step=False, on_epoch=True, reduce_fx="min")
        self.log("most", loss, on_step=False, on_epoch=True, reduce_fx=torch.max)
        self.log("total", loss, on_step=True, on_epoch=True, reduce_fx=sum)
        self.log("weighted", loss, on_epoch=True, batch_size=2)
        self.log_dict({"one": 1, "last": loss.double()})
        return {"loss": loss, "more": 3}


class Unused(Dense):
    """Layers that the loss reaches in no epoch, or is frozen."""

    def __init__(self):
        super().__init__(lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.5))
        self.unused, self.fixed = nn.Linear(2, 2), nn.Linear(INPUTS, 8)
        self.fixed.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.relu(self.body(x) + self.fixed(x)))


class Groups(Dense):
    """Parameter groups with their own rates; the loss has a shape of one number."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx).reshape(1)

    def configure_optimizers(self):
        decayed = [p for p in self.parameters() if p.dim() > 1]
        others = [p for p in self.parameters() if p.dim() == 1]
        return torch.optim.SGD([{"params": decayed, "weight_decay": 0.1}, {"params": others, "lr": 0.3}], lr=0.1)


class Tied(Dense):
    """Two layers that share one weight."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.norm[3].weight = self.norm[1].weight


class NoIndex(Dense):
    """A `training_step` without the number of the batch."""

    def training_step(self, batch):
        return super().training_step(batch, 0)


MODULES = {
    "whole fit": WholeFit,
    "own clock": OwnClock,
    "logs": LogsInAllWays,
    "unused and frozen layers": Unused,
    "parameter groups": Groups,
    "tied weights": Tied,
    "no index": NoIndex,
    "batch norm": partial(Dense, norm=partial(nn.BatchNorm1d, 8)),
    "group norm": partial(Dense, norm=partial(nn.GroupNorm, 2, 8)),
    "weight norm": lambda: _with_weight_norm(Dense()),
}


def _with_weight_norm(module):
    nn.utils.parametrizations.weight_norm(module.body)
    return module


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_each_kind_of_module_agrees_on_ragged_clients(module):
    sizes = WHOLE_BATCHES if "Norm" in str(module) else SIZES
    assert difference(ragged(module, sizes=sizes)) < TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_clip_val": 0.05},
        {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 3},
        {"limit_train_batches": 3},
        {"limit_train_batches": 0.5},
        {"precision": "64-true"},
    ],
    ids=str,
)
@pytest.mark.parametrize("algorithm", [FedAvg(proximal=0.5), Scaffold()], ids=["fedprox", "scaffold"])
def test_trainer_arguments_act_on_each_client_alone(options, algorithm):
    sizes = (23, 17, 16, 11)
    assert difference(ragged(algorithm=algorithm, options=options, sizes=sizes)) < TOLERANCE


@pytest.mark.parametrize("limit", [0, 0.5, 0.4])
def test_a_client_without_a_batch_takes_no_step_or_fails_alone(limit):
    fed = ragged(options={"limit_train_batches": limit}, sizes=(23, 4, 10, 5))
    single, stacked = (list(with_executor(fed, executor).run()) for executor in (Inline(), Vectorized(4)))
    for one, other in zip(single, stacked, strict=True):
        failures = [[(failure.client, failure.outcome) for failure in record.failures] for record in (one, other)]
        assert failures[0] == failures[1]
        assert one.lost == other.lost
        weights = [record.model.parameters for record in (one, other)]
        assert all(torch.allclose(tensor, weights[1][name], atol=TOLERANCE) for name, tensor in weights[0].items())
    assert len(single[-1].failures) == {0: 0, 0.5: 2, 0.4: 3}[limit]


def test_local_steps_and_rates_of_the_round_agree():
    fed = ragged(partial(Dense, OPTIMIZERS["momentum"]), epochs=1, local_steps=7, lr="step", lr_every=1, lr_gamma=0.5)
    assert difference(fed) < TOLERANCE


def test_step_budgets_freeze_each_client_at_its_own_step():
    fed = ragged(partial(Dense, OPTIMIZERS["adam"]), Ditto(), client_state="reset", epochs=3)
    clients = (0, 1, 2, 3)
    job = TrainJob(0, 1, clients, budgets={0: 3, 1: 1, 2: 9})
    single = fed.worker(job, fed.initial_state())
    stacked = replace(fed.worker, stacks=StackTraining())(job, fed.initial_state())
    assert single.steps == stacked.steps
    assert float((single.total - stacked.total).norm() / single.total.norm()) < TOLERANCE
    assert single.metrics.keys() == stacked.metrics.keys()
    for client, state in single.client_states.items():
        for group, tensors in state.items():
            for name, tensor in tensors.items():
                assert torch.allclose(tensor, stacked.client_states[client][group][name], atol=TOLERANCE)


def test_clients_that_step_together_have_the_displacement_of_their_own_steps():
    fed = ragged(partial(Dense, OPTIMIZERS["momentum"]), FedNova(proximal=0.1), sizes=(20, 20, 20), epochs=3)
    job = TrainJob(0, 1, (0, 1, 2), budgets={0: 3, 1: 1})
    single = fed.worker(job, fed.initial_state())
    stacked = replace(fed.worker, stacks=StackTraining())(job, fed.initial_state())
    assert single.steps == stacked.steps == 3 + 1 + 12
    assert float((single.total - stacked.total).norm() / single.total.norm()) < TOLERANCE


def test_images_with_convolutions_agree():
    assert (
        difference(federation(dropout=0.0, clients=5, cohort=5, samples=118, rounds=2, local_epochs=2))
        < TOLERANCE_OF_IMAGES
    )


def test_augmented_samples_are_the_client_s_own():
    data = replace(samples(57), augment=lambda x: x + 0.1 * torch.randn_like(x))
    assert difference(ragged(data=data)) < TOLERANCE


def test_dropout_draws_its_own_masks_for_each_client_and_repeats_them():
    fed = ragged(partial(Dense, norm=partial(nn.Dropout, 0.5)), sizes=(5, 5, 5, 5), data=_equal_samples())
    one, two = (list(with_executor(fed, Vectorized(4)).run()) for _ in range(2))
    assert [record.sha256 for record in one] == [record.sha256 for record in two]
    assert one[0].metrics["drift/mean_distance"] > 1e-3  # the clients have equal samples, and other masks


def _equal_samples():
    data = samples(5)
    return replace(data, x=data.x.repeat(4, 1), y=data.y.repeat(4))
