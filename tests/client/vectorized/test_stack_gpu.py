"""Stacks on a GPU."""

from functools import partial

import pytest
import torch
from stacks import Dense, largest_difference, ragged, with_executor

from fedlit.algorithms import FedAvg, Scaffold
from fedlit.client.vectorized.stack import Stack
from fedlit.executors import Inline, Vectorized

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

TOLERANCE = 1e-4
"""Kernels of a GPU choose their order of additions by the shape."""


class LogsNumbers(Dense):
    """Logs a number of Python, and a metric that is updated alone."""

    def training_step(self, batch, batch_idx):
        self.log("one", 1.0, on_epoch=True)
        self.accuracy.update(self(batch[0]).detach().argmax(1), batch[1])
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss


def on_gpu(algorithm=None, sizes=(23, 7, 16, 10, 1, 0), **optimizer):
    """A federation whose samples and Trainers are on the GPU."""
    make = partial(torch.optim.SGD, lr=0.1, **optimizer)
    fed = ragged(partial(LogsNumbers, make), algorithm, {"accelerator": "gpu"}, sizes=sizes, rounds=3)
    return fed.with_worker(fed.worker.on_device(torch.device("cuda")))


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold()], ids=["fedavg", "scaffold"])
def test_a_stack_on_a_gpu_agrees_with_single_clients(algorithm):
    single, stacked = (list(with_executor(on_gpu(algorithm), executor).run()) for executor in (Inline(), Vectorized(6)))
    assert largest_difference(single, stacked) < TOLERANCE


@pytest.mark.parametrize("sizes", [(20, 20, 20), (23, 7, 16, 10, 1)], ids=["equal", "ragged"])
def test_a_step_of_a_stack_does_not_wait_for_the_gpu(monkeypatch, sizes):
    take_step, counts = Stack._take_step, []

    def checked(self, batch):
        if self._calls[0].round == 0:  # steps are recorded, and compared with Python
            return take_step(self, batch)
        counts.append(len(batch))
        torch.cuda.set_sync_debug_mode("error")
        try:
            return take_step(self, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Stack, "_take_step", checked)
    list(with_executor(on_gpu(sizes=sizes, momentum=0.9), Vectorized(6)).run())
    assert counts
