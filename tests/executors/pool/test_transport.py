"""Workers cross to other processes with modules and functions that plain pickle refuses."""

import gc
import pickle
from tempfile import TemporaryFile

import pytest
import torch
from conftest import Quadratic
from parametrized import PARAMETRIZATIONS, Regression, Scaled, federation_of, worker_of
from torch.nn.utils import parametrize

from fedlit.core.messages import TrainJob
from fedlit.executors.pool.transport import (
    RAW,
    decode_message,
    deserialize_worker,
    encode_message,
    serialize_worker,
)


def copy_of(worker):
    with TemporaryFile() as file:
        return deserialize_worker(serialize_worker(worker, file))


def assert_same_training(worker, copy):
    state = federation_of(worker).initial_state()
    job = TrainJob(0, 0, (0, 1))
    expected, given = worker(job, state), copy(job, state)
    assert expected.total.any()
    assert torch.equal(expected.total, given.total)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_a_module_with_parametrizations_crosses_after_a_fit(name):
    worker = worker_of(Regression(PARAMETRIZATIONS[name]))
    worker(TrainJob(0, 0, (1,)), federation_of(worker).initial_state())
    with pytest.raises(RuntimeError, match="parametrized modules"):
        pickle.dumps(worker.replica.module.hidden)
    assert_same_training(worker, copy_of(worker))


def test_a_parametrized_lightning_module_crosses():
    module = Quadratic(1.0)
    parametrize.register_parametrization(module, "w", Scaled())
    worker = worker_of(module)
    copy = copy_of(worker)
    assert type(copy.replica.module).__name__ == "ParametrizedQuadratic"
    assert_same_training(worker, copy)


def test_functions_and_classes_that_cannot_be_imported_cross():
    class Local(Quadratic):
        def __init__(self):
            super().__init__(1.0)
            self.scale = lambda loss: 3.0 * loss

        def training_step(self, batch, batch_idx):
            return self.scale(super().training_step(batch, batch_idx))

    worker = worker_of(Local())
    assert_same_training(worker, copy_of(worker))


class Grows(Quadratic):
    """Keeps an object of its last fit that cannot be pickled."""

    def on_fit_start(self):
        self.rows = (row for row in [1, 2])


def test_what_a_fit_left_in_the_module_does_not_cross():
    worker = worker_of(Grows())
    worker(TrainJob(0, 0, (1,)), federation_of(worker).initial_state())
    assert not hasattr(copy_of(worker).replica.module, "rows")


def test_the_garbage_collector_finds_no_memoryview_below_a_message():
    content = {"large": torch.ones(RAW), "small": torch.ones(3)}
    pickled, *raw = encode_message(content)
    assert len(raw) == 1
    found, below = [], gc.get_referents(*raw)
    while below:
        found += below
        below = gc.get_referents(*below)
    assert not [one for one in found if isinstance(one, memoryview)]  # CPython 3.11.7 would crash in a cycle
    copy = decode_message([pickled, *map(bytearray, raw)])
    assert all(torch.equal(copy[name], content[name]) for name in content)


def test_messages_in_reference_cycles_are_collected():
    for _ in range(20):
        cycle = [encode_message(torch.ones(RAW))]
        cycle.append(cycle)
    del cycle
    assert gc.collect() >= 20
