"""Batches of several clients, each read with its own random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from fedlit.client.fit.call import FitCall
from fedlit.client.vectorized.lanes.clock import UnreadableBatch
from fedlit.client.vectorized.lanes.lane import Lane
from fedlit.core.streams import Purpose, seeded
from fedlit.data.samples import Normalise, TensorBatches, TensorSamples

JointBatch = list[tuple[int, Any]]
"""Position in the stack and batch of each client that still trains."""


class JointBatches:
    """For each step the next batch of each client that still trains.

    Args:
        lanes: the clients.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes

    def __len__(self) -> int:
        return max((total for lane in self._lanes for total in lane.totals), default=0)

    def __iter__(self) -> Iterator[JointBatch]:
        readers = [
            (lane.start + row, call, total, _read(call, lane.clock.num_batches))
            for lane in self._lanes
            for row, (call, total) in enumerate(zip(lane.calls, lane.totals, strict=True))
        ]
        for step in range(len(self)):
            yield [(position, _next(call, batches)) for position, call, total, batches in readers if step < total]


def _next(call: FitCall, batches: Iterator[Any]) -> Any:
    try:
        return next(batches)
    except Exception as error:  # of the user's data
        raise UnreadableBatch(call, error) from error


def _read(call: FitCall, num_batches: int) -> Iterator[Any]:
    """Yield a client's batches, epoch after epoch.

    They are read with the random numbers of the client's own fit.
    """
    if (indexed := _indexed_batches(call)) is not None:
        while True:
            order = indexed.order()
            for start in range(0, num_batches * indexed.size, indexed.size):
                yield IndexedBatch(indexed.samples, order[start : start + indexed.size])
    samples = call.data.train
    if isinstance(samples, TensorSamples) and samples.augment is None:  # only the order is random, with its own stream
        while True:
            yield from islice(iter(call.batches), num_batches)
    stream = _ClientStream(call)
    while True:
        with stream.in_use():
            batches = islice(iter(call.batches), num_batches)
        for _ in range(num_batches):
            with stream.in_use():
                batch = next(batches)
            yield batch


class IndexedBatch(NamedTuple):
    """A batch that is read together with those of other clients.

    Args:
        samples: the samples, without augmentation.
        numbers: the sample numbers of the batch, shape (n,).
    """

    samples: TensorSamples
    numbers: np.ndarray


def _indexed_batches(call: FitCall) -> TensorBatches | None:
    """Return the client's batches if others' can join them, or None.

    Then each input is prepared by itself, and nothing else changes the batches.
    """
    batches = call.batches
    if not isinstance(batches, TensorBatches) or call.data.datamodule is not None or call.config.dtype is not None:
        return None
    samples = batches.samples
    is_each_alone = samples.prepare is None or isinstance(samples.prepare, Normalise)
    return batches if samples.augment is None and is_each_alone and samples.is_in_memory else None


class _ClientStream:
    """The global random generators as one client's fit would have them."""

    def __init__(self, call: FitCall) -> None:
        with seeded(call.data.seed, Purpose.MODEL, call.round, call.client, call.key):
            self._states = get_generators()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use the client's generators inside the block."""
        others = get_generators()
        set_generators(self._states)
        try:
            yield
        finally:
            self._states = get_generators()
            set_generators(others)


def get_generators() -> tuple[Any, ...]:
    """Return the states of the global generators of torch, NumPy and random."""
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), gpu


def set_generators(states: tuple[Any, ...]) -> None:
    """Set the states of the global generators."""
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state(states[3])
