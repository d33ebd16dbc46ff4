"""Clients of a stack that fail, and the others of the stack."""

from dataclasses import replace

import pytest
import torch
from stacks import Dense, largest_difference, ragged, samples, with_executor
from torch.utils.data import TensorDataset

from fedlit.core.errors import FatalClientFailure
from fedlit.data.custom import DatasetSamples
from fedlit.executors import Inline, Vectorized
from fedlit.simulation import Corrupt, Drop, FailurePolicy, FaultPlan, Raise

pytestmark = pytest.mark.slow


def both(fed, **policy):
    """Records of single clients, and of a stack."""
    fed = fed.with_worker(replace(fed.worker, faults=FailurePolicy(**policy)))
    return [list(with_executor(fed, executor).run()) for executor in (Inline(), Vectorized(6))]


@pytest.mark.parametrize(
    "fault", [Drop(), Drop("after"), Corrupt(), Corrupt("wrong_shape"), Raise()], ids=lambda fault: repr(fault)
)
def test_planned_failures_are_those_of_single_clients(fault):
    single, stacked = both(ragged(), plans=[FaultPlan(fault, 0.5)])
    assert any(record.failures for record in single)
    assert largest_difference(single, stacked) < 2e-5


def test_samples_that_are_not_finite_fail_their_client_alone():
    data = samples(57)
    data.x[23:30] = float("inf")
    single, stacked = both(ragged(data=data))
    assert [failure.client for failure in stacked[0].failures] == [1]
    assert largest_difference(single, stacked) < 2e-5


class Unreadable(TensorDataset):
    """Samples of which one cannot be read."""

    def __getitem__(self, index):
        if index == 25:
            raise OSError("a broken file")
        return super().__getitem__(index)


def test_a_sample_that_cannot_be_read_fails_its_client_alone():
    data = samples(57)
    single, stacked = both(ragged(data=DatasetSamples.of(Unreadable(data.x, data.y), 0)))
    (failure,) = stacked[0].failures
    assert (failure.client, failure.outcome) == (1, "exception")
    assert "a broken file" in failure.reason
    assert largest_difference(single, stacked) < 2e-5


class FailsLater(Dense):
    """Fails in the client's second epoch, whatever its data."""

    def training_step(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise RuntimeError("in the second epoch")
        return super().training_step(batch, batch_idx)


def test_an_exception_of_the_module_is_that_of_each_client():
    with pytest.raises(Exception, match="rounds in a row were lost"):
        both(ragged(FailsLater, rounds=4))
    with pytest.raises(FatalClientFailure, match="in the second epoch"):
        both(ragged(FailsLater), on_error="fail")


def test_a_failed_client_is_retried_with_the_same_numbers():
    single, stacked = both(ragged(), on_error="retry", retries=2)
    assert torch.isfinite(stacked[-1].model.parameters["head.bias"]).all()
    assert largest_difference(single, stacked) < 2e-5
