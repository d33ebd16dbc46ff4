"""Worker processes that several federations share, since processes take seconds to start."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.aggregator import merge
from fedlit.client.worker import ClientWorker
from fedlit.executors import Processes


def merge_means(parts):
    """Merge partial aggregates of the mean."""
    return merge(MeanAggregator(), list(parts))


@dataclass(frozen=True)
class Several:
    """Workers of several federations, to share processes, which take seconds to start.

    The server state has the number of the worker of a job.
    """

    workers: tuple[ClientWorker, ...]
    device = torch.device("cpu")

    def on_device(self, device):
        return replace(self, workers=tuple(worker.on_device(device) for worker in self.workers))

    def merge(self, parts):
        return merge_means(parts)

    def __call__(self, job, state):
        return self.workers[int(state.shared["which"]["number"])](job, state)


@dataclass(frozen=True)
class SharedProcesses(Processes):
    """An executor that uses the open processes of another."""

    execute: object = None
    which: int = 0

    def gpus(self, device):
        return [None, None]

    @contextmanager
    def open(self, worker, rounds):
        yield lambda jobs, state: self.execute(jobs, state.with_shared(which={"number": torch.tensor(self.which)}))


def comparable(record):
    """Return the part of a record that does not depend on the executor."""
    times = [name for name in record.metrics if name.startswith("time/")]
    return record.sha256, record.failures, {name: value for name, value in record.metrics.items() if name not in times}


def results(federation):
    """The comparable parts of the records of a whole run."""
    return [comparable(record) for record in federation.run()]


def assert_same_in_processes_and_after_a_stop(make, channels, folder):
    """Assert that each channel's run is bit-identical in processes, and when it is resumed after its first round.

    Args:
        make: makes a federation from a channel; with `folder` one that writes checkpoints there.
        channels: channels whose runs have failed clients.
        folder: an empty folder.

    Returns:
        The results of the runs in this process.
    """
    expected = [results(make(channel)) for channel in channels]
    assert all(any(failures for _, failures, _ in rounds) for rounds in expected)
    workers = tuple(make(channel).worker for channel in channels)
    with Processes(2).open(Several(workers), 1) as execute:
        for which, channel in enumerate(channels):
            federation = replace(make(channel), executor=SharedProcesses(execute=execute, which=which))
            assert results(federation) == expected[which], channel
    for which, channel in enumerate(channels):
        federation = make(channel, folder=folder / f"{which}")
        stopped = federation.run()
        first = comparable(next(stopped))
        stopped.close()
        assert [first, *results(federation)] == expected[which], channel
    return expected
