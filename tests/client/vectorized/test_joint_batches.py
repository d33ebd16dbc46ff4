from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedlit.client.vectorized.lanes.clock import ClientClock
from fedlit.client.vectorized.lanes.lane import Lane
from fedlit.client.vectorized.step.batches import stack_batches
from fedlit.client.vectorized.streams import IndexedBatch, JointBatches
from fedlit.data.samples import TensorSamples

SAMPLES = TensorSamples(torch.arange(40.0).view(20, 2), torch.arange(20))
SHARDS = [np.arange(0, 8), np.arange(8, 15), np.arange(15, 20)]


def batches_of(client, drop_last):
    return SAMPLES.batches(SHARDS[client], 3, torch.Generator().manual_seed(client), drop_last)


def lane_of(clients, num_batches, epochs, drop_last, start=0):
    data, config = SimpleNamespace(train=SAMPLES, datamodule=None), SimpleNamespace(dtype=None)
    calls: Any = [
        SimpleNamespace(batches=batches_of(one, drop_last), data=data, config=config, client=one) for one in clients
    ]
    return Lane(calls, ClientClock(num_batches, epochs, None, 1), [num_batches * epochs] * len(calls), start)


@pytest.mark.parametrize(("drop_last", "lengths"), [(False, (3, 2)), (True, (2, 1)), (False, (1, 1))])
def test_clients_read_together_have_the_batches_of_each_alone(drop_last, lengths):
    """The last case ends each epoch early."""
    lanes = [lane_of((0, 1), lengths[0], 2, drop_last), lane_of((2,), lengths[1], 2, drop_last, start=2)]
    together = list(JointBatches(lanes))
    assert [[position for position, _ in step] for step in together] == [
        *[[0, 1, 2]] * (2 * lengths[1]),
        *[[0, 1]] * (2 * (lengths[0] - lengths[1])),
    ]
    for client, length in ((0, lengths[0]), (1, lengths[0]), (2, lengths[1])):
        alone = batches_of(client, drop_last)
        expected = [batch for _ in range(2) for batch in list(alone)[:length]]
        own = [part for step in together for position, part in step if position == client]
        assert all(isinstance(part, IndexedBatch) for part in own)
        assert [len(part.numbers) for part in own] == [len(y) for _, y in expected]
        for size in {len(y) for _, y in expected}:
            stacked = stack_batches([part for part in own if len(part.numbers) == size])[2]
            for tensor, parts in zip(stacked, zip(*expected, strict=True), strict=True):
                assert tensor.equal(torch.stack([part for part in parts if len(part) == size]))
