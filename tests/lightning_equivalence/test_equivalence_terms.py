"""A gradient term is what the same term in each batch's loss would be, in each setting of the Trainer.

The reference adds mu / 2 * |w - x|^2 + <offset, w> to the loss of each `training_step`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from equivalence import CLASSES, INPUTS, Net, Setting, compare, loss_term
from lightning.pytorch.callbacks import EMAWeightAveraging, GradientAccumulationScheduler
from small import Quadratic
from test_equivalence import (
    BATCHES,
    SAM,
    Frozen,
    Groups,
    Skips,
    Tied,
    averages_epochs,
    dropout_net,
    net,
    norm_net,
    normalised,
    trained_by,
)
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

from fedlit.algorithms import FedAvg, FedDyn, FedNova, QFedAvg, Scaffold
from fedlit.core.model import GradientTerm

MU = 0.7


def offset(parameters):
    return {name: torch.linspace(-0.5, 0.4, p.numel()).reshape(p.shape) for name, p in parameters.items()}


@dataclass(frozen=True)
class WithTerms(FedAvg):
    """FedAvg with a proximal and a linear term."""

    def terms(self, x):
        return [GradientTerm(MU, x.parameters), GradientTerm(offset=offset(x.parameters))]


def in_the_loss(client):
    names = [name for name, _ in client.module.named_parameters()]
    start = {name: client.start[name] for name in names}
    loss_term(client, MU, start, offset(start))


def setting(make=Net, options=(), **more):
    return Setting(make, dict(options), **{"algorithm": WithTerms(), "rule": in_the_loss, "tolerance": 1e-6, **more})


class SparseRows(Net):
    """An embedding with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.rows, self.net = nn.Embedding(9, INPUTS, sparse=True), nn.Linear(INPUTS, CLASSES)

    def forward(self, inputs):
        return self.net(self.rows(inputs[:, 0].abs().mul(3).long().clamp(max=8)))


class DenseRows(SparseRows):
    def __init__(self):
        super().__init__()
        self.rows.sparse = False


class SparseMomentum(SparseRows):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ZeroesGradients(Skips):
    """Gradients that are zeroed, not removed: a step without a loss moves by the momentum."""

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        optimizer.zero_grad(set_to_none=False)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class UnreachedLayer(Net):
    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(2, 2)


def ratings():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(17, INPUTS, generator=generator)
    return TensorDataset(inputs, torch.randint(0, CLASSES, (17,), generator=generator))


CASES = {
    "plain SGD": setting(),
    "accumulation with a remainder": setting(net(), {"accumulate_grad_batches": 4}, epochs=2),
    "accumulation of more batches than an epoch has": setting(net(), {"accumulate_grad_batches": 10}, epochs=2),
    "accumulation that changes": setting(
        net(), callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 3})], epochs=2
    ),
    "clipping by norm, with accumulation": setting(
        net(), {"gradient_clip_val": 0.3, "accumulate_grad_batches": 3}, epochs=2
    ),
    "skipped batches": setting(Skips, epochs=2),
    "skipped batches, with accumulation": setting(Skips, {"accumulate_grad_batches": 2}, epochs=2),
    "skipped batches, gradients zeroed": setting(ZeroesGradients, epochs=2),
    "parameter groups": setting(Groups, epochs=2),
    "a frozen layer": setting(Frozen),
    "tied weights": setting(Tied),
    "a layer that the loss does not reach": setting(UnreachedLayer),
    "sparse gradients": setting(SparseRows, data=ratings(), epochs=2),
    "sparse gradients, momentum": setting(SparseMomentum, data=ratings(), epochs=2),
    "BatchNorm": setting(net(norm_net), sizes=BATCHES),
    "dropout": setting(net(dropout_net)),
    "weight norm": setting(net(normalised(parametrizations.weight_norm))),
    "Adam": setting(net(configure_optimizers=trained_by(torch.optim.Adam)), tolerance=1e-5),
    "LBFGS": setting(net(configure_optimizers=trained_by(torch.optim.LBFGS, max_iter=3)), tolerance=1e-5),
    "LBFGS, strong_wolfe": setting(
        net(configure_optimizers=trained_by(torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe")),
        rounds=1,  # later a line search takes another branch by rounding
        steps=2,
        tolerance=1e-5,
    ),
    "SAM": setting(net(configure_optimizers=trained_by(SAM, base=torch.optim.SGD))),
    "precision bf16-mixed": setting(net(), {"precision": "bf16-mixed"}, tolerance=2e-3),
    "callback: StochasticWeightAveraging, BatchNorm": setting(
        net(norm_net), callbacks=averages_epochs, sizes=BATCHES, epochs=3
    ),
    "callback: EMAWeightAveraging": setting(net(), callbacks=lambda: [EMAWeightAveraging(decay=0.8)], epochs=2),
}

UNIT = ("accumulation with a remainder", "skipped batches", "sparse gradients", "LBFGS, strong_wolfe")


@pytest.mark.parametrize(
    "name", [name if name in UNIT else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_a_gradient_term_equals_the_term_in_the_loss(name):
    comparison = compare(CASES[name])
    assert comparison.difference <= CASES[name].tolerance
    assert comparison.movement > 10 * CASES[name].tolerance


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [Scaffold(), Scaffold(option=1), FedDyn(), FedNova(), QFedAvg()], ids=repr)
def test_sparse_gradients_go_together_with_each_algorithm(algorithm):
    """The reference is the same module with dense gradients."""
    sparse = Setting(SparseRows, data=ratings(), algorithm=algorithm)
    models = [list(one.federation().run())[-1].model.parameters for one in (sparse, replace(sparse, make=DenseRows))]
    assert all(torch.allclose(models[0][name], models[1][name], atol=1e-6) for name in models[0])
    assert not torch.equal(models[0]["rows.weight"], sparse.federation().initial.parameters["rows.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "batches"), [(Scaffold(), 5), (Scaffold(), 7), (Scaffold(option=1), 5), (FedDyn(alpha=1.0), 5)]
)
def test_the_fixed_point_is_the_minimum_under_accumulation(algorithm, batches):
    """Three quadratics a / 2 * (w - b)^2, whose sum has its minimum at 9 / 7; four batches are accumulated."""
    curves, centers = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 1.0, 3.0])
    rows = torch.stack([curves, centers], 1).repeat_interleave(batches, 0)
    quadratics = Setting(
        lambda: Quadratic(0.0, lr=0.2),
        {"accumulate_grad_batches": 4},
        data=TensorDataset(rows, torch.zeros(len(rows), dtype=torch.int64)),
        sizes=(batches,) * 3,
        rounds=20,
        epochs=2,
        batch=1,
        algorithm=algorithm,
    )
    *_, last = quadratics.federation().run()
    assert last.model.parameters["w"].item() == pytest.approx(9 / 7, abs=1e-4)


@pytest.mark.slow
def test_a_reference_without_the_term_differs():
    assert compare(replace(CASES["plain SGD"], rule=None)).difference > 1e-2
