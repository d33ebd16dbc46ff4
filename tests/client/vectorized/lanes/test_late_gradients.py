"""Gradients that are computed when the optimizer steps: the same bits, and nobody misses them."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from stacks import Dense, largest_difference, ragged, with_executor
from torch import nn
from torch.optim import SGD, lr_scheduler

from fedlit.algorithms import Ditto, FedAvg, FedNova, Scaffold
from fedlit.client.vectorized.lanes import lane
from fedlit.client.vectorized.lanes.late_gradients import LateGradients
from fedlit.client.vectorized.lanes.optimizers import takes_plain_steps
from fedlit.client.vectorized.memory import StackMemory
from fedlit.client.vectorized.recording import products, program
from fedlit.client.vectorized.recording.products import Product
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.core.messages import TrainJob
from fedlit.core.model import Model
from fedlit.executors import Inline, Vectorized


def final_models(fed, monkeypatch, min_row_bytes):
    """The models of a run, and how often a parameter stepped by its product."""
    added = []
    with monkeypatch.context() as patch:
        patch.setattr(products, "MIN_ROW_BYTES", min_row_bytes)
        patch.setattr(program, "MIN_BYTES", 1)  # the matrices of small products are in the arena, too
        patch.setattr(RecordedSteps.__init__, "__defaults__", (0, False))  # each step is recorded when it is first seen
        add_to = Product.add_to
        patch.setattr(Product, "add_to", lambda self, *args: added.append(1) or add_to(self, *args))
        records = list(with_executor(fed, Vectorized(6)).run())
    assert not any(record.failures for record in records)
    return [record.model for record in records], len(added)


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


class Frozen(Dense):
    """Has a layer that is not trained."""

    def __init__(self):
        super().__init__()
        self.fixed = nn.Linear(6, 6)
        self.fixed.requires_grad_(False)

    def forward(self, x):
        return super().forward(self.fixed(x))


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
    "a frozen layer": ({"module": Frozen}, True),
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


SIZES = {
    "equal": ((20, 20, 20), True),
    "ragged": ((23, 7, 18, 10, 2, 0), True),
    "parts": ((3, 5, 5, 4, 2), False),  # clients step together, and their batches have different shapes
}


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "is_whole"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("settings", "is_late"), CASES.values(), ids=CASES)
def test_gradients_at_the_step_give_the_bits_of_gradients_at_once(monkeypatch, settings, is_late, sizes, is_whole):
    late, count = final_models(ragged(**settings, sizes=sizes, rounds=4), monkeypatch, 1)
    at_once, none = final_models(ragged(**settings, sizes=sizes, rounds=4), monkeypatch, 1 << 40)
    assert (count > 0, none) == (is_late and is_whole, 0)
    assert all(one.equals(other) for one, other in zip(late, at_once, strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(RecordedSteps, "run", lambda self, key, step, tensors, num_lasting=None: step(tensors))
        as_python, _ = final_models(ragged(**settings, sizes=sizes, rounds=4), monkeypatch, 1)
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


class Wide(Dense):
    """Has a layer whose gradients are large."""

    def __init__(self, width=160):
        super().__init__()
        self.body, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        self.wide = nn.Linear(width, width)

    def forward(self, x):
        return self.head(self.norm(self.wide(self.norm(self.body(x)))))


class ChangesWeights(Wide):
    """Changes a weight in place before each step."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.change(self.wide.weight, batch[0])
        return super().training_step(batch, batch_idx)


CHANGES = {
    "clamp": lambda weight, x: weight.clamp_(-0.01, 0.01),
    "shrink": lambda weight, x: weight.mul_(0.9),
    "by the batch": lambda weight, x: weight.mul_(x.mean().clamp(0.5, 0.9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("sizes", [(20,), (20, 20, 20)], ids=["one", "three"])
def test_a_module_that_changes_a_weight_in_place_changes_its_client_s_alone(change, sizes):
    fed = ragged(partial(ChangesWeights, change), sizes=sizes)
    before = {name: tensor.clone() for name, tensor in fed.initial.parameters.items()}
    stacked = list(with_executor(fed, Vectorized(3)).run())
    single = list(with_executor(ragged(partial(ChangesWeights, change), sizes=sizes), Inline()).run())
    assert largest_difference(single, stacked) < 2e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in fed.initial.parameters.items())


def test_shared_weights_have_memory_and_a_dtype_of_their_own():
    seen = []

    class Noted(LateGradients):
        def step(self):
            seen.extend(self.shared.values())
            return super().step()

    worker = ragged(Wide, sizes=(10, 10), options={"precision": "64-true"}).worker.vectorize()
    state = ragged(Wide, sizes=(10, 10), options={"precision": "64-true"}).initial_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane, "LateGradients", Noted)
        result = worker(TrainJob(1, 0, (0, 1)), state)
    assert not result.failures
    (shared,) = seen
    own = state.shared.model.parameters["wide.weight"]
    assert (shared.dtype, shared.shape, shared.data_ptr() % 64) == (torch.float64, (1, 160, 160), 0)
    assert shared.data_ptr() != own.data_ptr()
    assert torch.equal(shared[0], own)


class Half(FedAvg):
    """Trains from another model than the global one."""

    def client(self, local, shared, client_state):
        x = self.model(shared)
        if local.examples:
            local.fit(self.other(x, local), key=1)
        return super().client(local, shared, client_state)

    def other(self, x, local):
        return Model({name: tensor.float() for name, tensor in x.parameters.items()}, x.buffers)


class Wrong(Half):
    def other(self, x, local):
        return Model({}, {}) if local.client == 0 else x


@pytest.mark.slow
def test_a_fit_may_start_from_a_model_of_another_dtype():
    settings = {"algorithm": Half(), "sizes": (10, 10), "options": {"precision": "64-true"}}
    stacked, single = (
        list(with_executor(ragged(Wide, **settings), executor).run()) for executor in (Vectorized(2), Inline())
    )
    assert not any(record.failures for record in stacked)
    assert largest_difference(single, stacked) < 2e-5


def test_a_client_that_starts_from_a_wrong_model_fails_alone():
    settings = {"sizes": (10, 10, 10)}
    worker, state = ragged(**settings).worker.vectorize(), ragged(**settings).initial_state()
    result = replace(worker, algorithm=Wrong())(TrainJob(1, 0, (0, 1, 2)), state)
    single = replace(ragged(**settings).worker, algorithm=Wrong())(TrainJob(1, 0, (0, 1, 2)), state)
    assert (result.members, [failure.client for failure in result.failures]) == ((1, 2), [0])
    assert [failure.outcome for failure in result.failures] == [failure.outcome for failure in single.failures]


class OwnStep(SGD):
    def step(self, closure=None):
        return None


def test_a_subclass_with_a_step_of_its_own_is_not_plain():
    assert not takes_plain_steps(OwnStep([nn.Parameter(torch.ones(2))], lr=0.1))


def test_shared_weights_reach_the_parameters_with_the_first_step():
    generator = torch.Generator().manual_seed(0)
    left, right, shared = (torch.randn(shape, generator=generator) for shape in ((3, 4, 2), (3, 2, 5), (1, 4, 5)))
    parameters = {name: nn.Parameter(torch.full((3, 4, 5), torch.nan)) for name in ("moves", "stays", "has no rate")}
    late = LateGradients(SGD([parameters["stays"], parameters["moves"]], lr=0.1), parameters)
    for name in parameters:
        late.shared[name] = shared
    late.add("moves", Product(left, right))
    late.add("has no rate", Product(left, right))
    assert late.step()
    assert torch.equal(parameters["moves"].detach(), shared.expand(3, 4, 5).add(left.bmm(right), alpha=-0.1))
    for name in ("stays", "has no rate"):
        assert torch.equal(parameters[name].detach(), shared.expand(3, 4, 5))
    assert not late.shared
    assert not late.step()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 1])
def test_a_fit_without_a_step_keeps_the_shared_weights(monkeypatch, limit):
    fed = ragged(sizes=(20, 20, 20), options={"limit_train_batches": limit})
    monkeypatch.setattr(
        StackMemory, "take", lambda self, name, like, count: torch.full((count, *like.shape), torch.nan)
    )
    late, _ = final_models(fed, monkeypatch, 1)
    single = [record.model for record in with_executor(fed, Inline()).run()]
    for one, other in zip(late, single, strict=True):
        assert all(torch.allclose(one.parameters[name], other.parameters[name]) for name in one.parameters)
    assert single[-1].equals(fed.initial) == (limit == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "counts"), [(FedAvg(), {1}), (Ditto(), {1, 3})], ids=["fedavg", "ditto"])
def test_only_weights_that_all_clients_start_from_are_shared(monkeypatch, algorithm, counts):
    seen = set()
    run = RecordedSteps.run
    monkeypatch.setattr(products, "MIN_ROW_BYTES", 1)

    def noted(self, key, step, tensors, num_lasting=None):
        if len(tensors) > 4:  # of a training step
            seen.add(1 if tensors[0].stride(0) == 0 else len(tensors[0]))
        return run(self, key, step, tensors, num_lasting)

    monkeypatch.setattr(RecordedSteps, "run", noted)
    fed = ragged(algorithm=algorithm, sizes=(5, 5, 5), epochs=1, rounds=2)
    worker = fed.worker.vectorize()
    seen.clear()
    job = TrainJob(1, 0, (0, 1, 2))
    first = worker(job, fed.initial_state())
    worker(replace(job, client_states=first.client_states), fed.initial_state())
    assert seen == counts
