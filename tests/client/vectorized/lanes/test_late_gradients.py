"""Gradients that are computed when the optimizer steps: the same bits, and nobody misses them."""

from functools import partial

import pytest
import torch
from stacks import Dense, ragged, with_executor
from torch import nn
from torch.optim import SGD, lr_scheduler

from fedlit.algorithms import FedAvg, FedNova, Scaffold
from fedlit.client.vectorized.lanes.optimizers import takes_plain_steps
from fedlit.client.vectorized.recording import products, program
from fedlit.client.vectorized.recording.products import Product
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.executors import Vectorized


def final_models(fed, monkeypatch, min_row_bytes):
    """The models of a run, and how often a parameter stepped by its product."""
    added = []
    with monkeypatch.context() as patch:
        patch.setattr(products, "MIN_ROW_BYTES", min_row_bytes)
        patch.setattr(program, "MIN_BYTES", 1)  # the matrices of small products are in the arena, too
        add_to = Product.add_to
        patch.setattr(Product, "add_to", lambda self, *args: added.append(1) or add_to(self, *args))
        return [record.model for record in with_executor(fed, Vectorized(6)).run()], len(added)


class Scheduled(Dense):
    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=0.2)
        return [optimizer], [{"scheduler": lr_scheduler.ExponentialLR(optimizer, 0.8), "interval": "step"}]


class SeesGradients(Dense):
    """Has a hook that halves the gradients before each step."""

    def configure_optimizers(self):
        optimizer = SGD(self.parameters(), lr=0.2)
        optimizer.register_step_pre_hook(self.halve)
        return optimizer

    def halve(self, optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(0.5)


class NoBiases(Dense):
    """All gradients are products."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)


class TwoRates(Dense):
    def configure_optimizers(self):
        groups = [{"params": self.body.parameters()}, {"params": self.head.parameters(), "lr": 0.3}]
        return SGD(groups, lr=0.1)


class HeadAlone(Dense):
    """The optimizer leaves out a layer that the loss reaches."""

    def configure_optimizers(self):
        return SGD(self.head.parameters(), lr=0.1)


CASES = {
    "plain": ({}, True),
    "fused": ({"module": partial(Dense, partial(SGD, lr=0.1, fused=True))}, True),
    "foreach": ({"module": partial(Dense, partial(SGD, lr=0.1, foreach=True))}, True),
    "two rates": ({"module": TwoRates}, True),
    "no biases": ({"module": NoBiases}, True),
    "a layer without an optimizer": ({"module": HeadAlone}, True),
    "scheduler": ({"module": Scheduled}, True),
    "rates of the rounds": ({"lr": "step", "lr_every": 1, "lr_gamma": 0.5}, True),
    "double": ({"options": {"precision": "64-true"}}, True),
    "fednova": ({"algorithm": FedNova()}, True),
    "fednova without biases": ({"algorithm": FedNova(), "module": NoBiases}, True),
    "momentum": ({"module": partial(Dense, partial(SGD, lr=0.1, momentum=0.9))}, False),
    "weight decay": ({"module": partial(Dense, partial(SGD, lr=0.1, weight_decay=0.1))}, False),
    "maximize": ({"module": partial(Dense, partial(SGD, lr=0.01, maximize=True))}, False),
    "tensor as rate": ({"module": partial(Dense, partial(SGD, lr=torch.tensor(0.1)))}, False),
    "adam": ({"module": partial(Dense, partial(torch.optim.Adam, lr=0.01))}, False),
    "hook": ({"module": SeesGradients}, False),
    "fedprox": ({"algorithm": FedAvg(proximal=0.5)}, False),
    "scaffold": ({"algorithm": Scaffold()}, False),
    "clip": ({"options": {"gradient_clip_val": 0.05}}, False),
    "accumulate": ({"options": {"accumulate_grad_batches": 2}}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(20, 20, 20), (23, 7, 18, 10, 2, 0)], ids=["equal", "ragged"])
@pytest.mark.parametrize(("settings", "is_late"), CASES.values(), ids=CASES)
def test_gradients_at_the_step_give_the_bits_of_gradients_at_once(monkeypatch, settings, is_late, sizes):
    late, count = final_models(ragged(**settings, sizes=sizes, rounds=3), monkeypatch, 1)
    at_once, none = final_models(ragged(**settings, sizes=sizes, rounds=3), monkeypatch, 1 << 40)
    assert (count > 0, none) == (is_late, 0)
    assert all(one.equals(other) for one, other in zip(late, at_once, strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(RecordedSteps, "run", lambda self, key, step, tensors, num_lasting=None: step(tensors))
        as_python, _ = final_models(ragged(**settings, sizes=sizes, rounds=3), monkeypatch, 1)
    assert all(one.equals(other) for one, other in zip(late, as_python, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", [{}, {"fused": True}, {"foreach": True}], ids=str)
def test_rows_step_alone_only_if_their_numbers_stay_the_same(dtype, way):
    """In a lower precision a step of SGD may round otherwise than an addition with a factor."""
    weights, gradients = torch.randn(2, 3, 1237, generator=torch.Generator().manual_seed(0)).to(dtype)
    parameter = nn.Parameter(weights.clone())
    optimizer = SGD([parameter], lr=0.0123, **way)
    is_plain = takes_plain_steps(optimizer)
    parameter.grad = gradients
    optimizer.step()
    rows = [row.add(gradient, alpha=-0.0123) for row, gradient in zip(weights, gradients, strict=True)]
    assert torch.equal(torch.stack(rows), parameter.detach()) or not is_plain
    assert is_plain or dtype in (torch.bfloat16, torch.float16)


class OwnStep(SGD):
    def step(self, closure=None):
        return None


def test_a_subclass_with_a_step_of_its_own_is_not_plain():
    assert not takes_plain_steps(OwnStep([nn.Parameter(torch.ones(2))], lr=0.1))
