"""Recorded operations have the same bits as Python, and steps that depend on more than tensors run as Python."""

import copy
import itertools
import pickle
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from stacks import Dense, ragged, with_executor
from torch import nn
from torch.func import grad, vmap
from torchmetrics.classification import MulticlassAccuracy

from fedlit.client.vectorized.recording import products, program, recorded
from fedlit.client.vectorized.recording.products import Product
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.core.messages import TrainJob
from fedlit.data import TensorSamples
from fedlit.executors import Vectorized


class Step:
    """A step that counts its calls; tests change its body."""

    def __init__(self, body):
        self.body, self.calls = body, 0

    def __call__(self, tensors):
        self.calls += 1
        return self.body(*tensors), None


def run(body, count=5, shape=(4, 3)):
    """Results by recorded operations and by Python, the steps, and the number of calls of Python."""
    steps, step = RecordedSteps(0), Step(body)
    results = []
    for number in range(count):
        inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(number)) for _ in range(2)]
        copies = [tensor.clone() for tensor in inputs]
        torch.manual_seed(number)
        outputs, _ = steps.run("key", step, inputs)
        state = torch.get_rng_state()
        torch.manual_seed(number)
        expected = body(*copies)
        results.append((outputs, expected, inputs, copies, torch.equal(state, torch.get_rng_state())))
    return steps, step, results


def differentiate(x, w):
    loss = lambda w, x: torch.nn.functional.cross_entropy((x * w).relu().reshape(1, -1), torch.zeros(1, dtype=int))  # noqa: E731
    return list(vmap(grad(loss, argnums=(0, 1)))(w, x))


def dropout(x, w):
    return list(
        vmap(grad(lambda w, x: (torch.dropout(x * w, 0.5, True)).sum(), argnums=(0, 1)), randomness="different")(w, x)
    )


def in_place(x, w):
    x.mul_(2).add_(w)
    return [x[:, 0].clone(), x]


def several_results(x, w):
    values, places = (x + w).max(dim=1)
    return [values, places, *x.split(1, dim=1)]


def unused_random(x, w):
    torch.rand_like(x)
    return [x + w]


def own_constant(x, w):
    return [x * torch.tensor([1.0, 2.0, 3.0]) + w]


@pytest.mark.parametrize("body", [differentiate, dropout, in_place, several_results, unused_random, own_constant])
def test_recorded_operations_have_the_bits_of_python(body):
    steps, step, results = run(body)
    assert not steps.is_refused
    assert step.calls == 2
    for outputs, expected, inputs, copies, is_same_random in results:
        assert is_same_random
        for one, other in zip([*outputs, *inputs], [*expected, *copies], strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_a_step_is_recorded_after_some_of_its_kind():
    steps, step = RecordedSteps(patience=2), Step(differentiate)
    for _ in range(9):
        steps.run("key", step, [torch.ones(2, 3), torch.ones(2, 3)])
    assert step.calls == 4


def test_each_shape_and_key_is_recorded_by_itself():
    steps, step = RecordedSteps(0), Step(differentiate)
    for shape, key in itertools.product([(2, 3), (3, 3)], "ab"):
        for _ in range(3):
            outputs, _ = steps.run(key, step, [torch.ones(shape), torch.ones(shape)])
            assert outputs[0].shape == shape
    assert step.calls == 8
    steps.run(None, step, [torch.ones(2, 3), torch.ones(2, 3)])
    assert step.calls == 9


def numpy_random(x, w):
    return [x * np.random.rand() + w]


def python_random(x, w):
    return [x * random.random() + w]


def rarely_another(x, w):
    return [x if random.random() < 0 else x + w]


def own_generator(x, w):
    return [x + torch.rand(x.shape, generator=torch.Generator().manual_seed(1))]


class Counts:
    """A step that depends on how often it ran."""

    def __init__(self):
        self.count = 0

    def __call__(self, x, w):
        self.count += 1
        return [x * self.count]


@pytest.mark.parametrize("body", [numpy_random, python_random, rarely_another, own_generator, Counts()])
def test_a_step_that_depends_on_more_than_tensors_runs_as_python(body):
    steps, step = RecordedSteps(0), Step(body)
    for _ in range(4):
        steps.run("key", step, [torch.ones(2, 3), torch.ones(2, 3)])
    assert steps.is_refused
    assert step.calls == 4


def test_a_tensor_made_of_an_input_without_an_operation_is_noticed(monkeypatch):
    monkeypatch.setattr(recorded, "_python_generators", lambda: ())

    def hidden(x, w):
        return [torch.from_numpy(x.numpy()) + w]

    steps = RecordedSteps(0)
    steps.run("key", Step(hidden), [torch.ones(2, 3), torch.ones(2, 3)])
    assert steps.is_refused


def test_another_process_records_for_itself():
    steps, step = RecordedSteps(0), Step(own_constant)
    for _ in range(2):
        steps.run("key", step, [torch.ones(4, 3), torch.ones(4, 3)])
    copy = pickle.loads(pickle.dumps(steps))
    copy.run("key", step, [torch.ones(4, 3), torch.ones(4, 3)])
    assert (step.calls, copy.is_refused) == (3, False)


class Noisy(Dense):
    """Has dropout and a batch norm, and counts the calls of its step."""

    calls = 0

    def __init__(self):
        super().__init__(norm=lambda: nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)))

    def training_step(self, batch, batch_idx):
        type(self).calls += 1
        return super().training_step(batch, batch_idx)


class LogsEpoch(Dense):
    def training_step(self, batch, batch_idx):
        self.log("epoch", float(self.current_epoch))
        return super().training_step(batch, batch_idx)


def rounds(fed, monkeypatch, is_refused):
    """Records of a run with recorded operations, or all as Python."""
    Noisy.calls = 0
    with monkeypatch.context() as patch:
        if is_refused:
            patch.setattr(RecordedSteps, "run", lambda self, key, step, tensors, num_lasting=None: step(tensors))
        records = list(with_executor(fed, Vectorized(6)).run())
    return records, Noisy.calls


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(20, 20, 20), (23, 7, 18, 10, 2, 0)], ids=["equal", "ragged"])
def test_a_run_by_recorded_operations_has_the_same_bits(monkeypatch, sizes):
    monkeypatch.setattr(program, "MIN_BYTES", 1)  # small results are in the arena, too
    (one, calls), (other, all_calls) = (
        rounds(ragged(Noisy, sizes=sizes, rounds=3), monkeypatch, is_refused) for is_refused in (False, True)
    )
    assert calls < all_calls
    for first, second in zip(one, other, strict=True):
        assert first.metrics.keys() == second.metrics.keys()
        assert all(first.metrics[k] == second.metrics[k] for k in first.metrics if not k.startswith("time/"))
        for name, tensor in first.model.state_dict().items():
            assert torch.equal(tensor, second.model.state_dict()[name])


@pytest.mark.slow
def test_small_stacks_train_one_after_the_other_and_do_not_depend_on_what_was_refused():
    """A refusal in a later round must not change the stacks, which would depend on the number of processes."""
    fed = ragged(Dense, sizes=(20, 20, 20, 15, 10))
    worker = fed.worker.vectorize()
    nbytes = sum(tensor.nbytes for tensor in fed.initial_state().shared.model.parameters.values())
    totals = []
    for is_refused in (False, True):
        stacks = replace(worker.stacks, recorded=RecordedSteps(0), max_bytes=2 * nbytes)
        if is_refused:
            stacks.recorded.refuse()
        totals.append(replace(worker, stacks=stacks)(TrainJob(1, 0, (0, 1, 2, 3, 4)), fed.initial_state()).total)
    assert torch.equal(*totals)
    whole = replace(worker, stacks=replace(worker.stacks, max_bytes=None))
    together = whole(TrainJob(1, 0, (0, 1, 2, 3, 4)), fed.initial_state()).total
    assert torch.allclose(totals[0], together, rtol=2e-5, atol=2e-5 * float(together.abs().max()))


@pytest.mark.slow
def test_a_step_that_reads_the_progress_of_its_fit_runs_as_python():
    fed = ragged(LogsEpoch, epochs=3)
    worker = fed.worker.vectorize()
    assert worker.stacks.recorded.is_refused
    assert worker.stacks.max_bytes is None
    plain = ragged(Dense).worker.vectorize()
    assert not plain.stacks.recorded.is_refused
    assert plain.stacks.max_bytes
    records = list(replace(fed, executor=Vectorized(6)).run())
    assert records[-1].metrics["train/epoch"] == 2.0


@pytest.mark.slow
def test_the_module_keeps_no_tensor_of_the_transforms():
    fed = ragged(Dense)
    module = fed.worker.replica.module
    list(with_executor(fed, Vectorized(6)).run())
    copied = copy.deepcopy(module)
    assert all(torch.equal(state, torch.zeros_like(state)) for state in copied.accuracy.metric_state.values())


def test_a_late_product_with_other_bits_is_computed_at_once(monkeypatch):
    monkeypatch.setattr(products, "MIN_ROW_BYTES", 1)
    clone = Product.clone
    monkeypatch.setattr(Product, "clone", lambda self: clone(self) + 1e-3)
    steps, tensors = RecordedSteps(0), [torch.ones(2, 3, 3), torch.ones(2, 3, 3)]

    def step(tensors):
        return [(tensors[0] * 2).bmm(tensors[1])], None

    kinds = []
    for _ in range(5):
        (output,), _ = steps.run("key", step, tensors, 1)
        kinds.append(type(output))
    assert kinds == [torch.Tensor] * 5
    assert not steps.is_refused
    (recording,) = steps._recordings.values()
    assert recording.is_checked
    assert not recording.run.has_late_products
    assert recording.make_other is None


class Softmax(Dense):
    """Softmax regression on many inputs."""

    def __init__(self, inputs):
        super().__init__()
        self.body, self.norm, self.head = nn.Identity(), nn.Identity(), nn.Linear(inputs, 10)
        self.accuracy = MulticlassAccuracy(10, average="micro", validate_args=False)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(80, 80, 80, 45, 45, 45), (25, 25, 25, 20, 20, 20), (25, 25, 25)])
def test_several_threads_give_the_bits_of_python_whatever_the_lanes(monkeypatch, sizes):
    """Products of fewer matrices may have other bits then."""
    inputs, generator = 2048, torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(sum(sizes), inputs, generator=generator),
        torch.randint(0, 10, (sum(sizes),), generator=generator),
    )

    def models():
        fed = ragged(partial(Softmax, inputs), sizes=sizes, data=TensorSamples(x, y), rounds=3)
        return [record.model for record in with_executor(fed, Vectorized(6, threads=2)).run()]

    recorded = models()
    monkeypatch.setattr(RecordedSteps, "run", lambda self, key, step, tensors, num_lasting=None: step(tensors))
    assert all(one.equals(other) for one, other in zip(recorded, models(), strict=True))
