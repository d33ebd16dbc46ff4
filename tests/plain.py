"""A worker without Lightning, for processes that start quickly.

The client state of a client names the methods that its job calls.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.aggregator import merge
from fedlit.core.messages import EvalResult, PartialAggregate, ServerState, Shared, TrainJob
from fedlit.core.model import Model


class NotUnpicklable(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def exit_on_signal(signum, frame):
    raise SystemExit(1)


def plain_state(number, private=None, round=0):
    """Return a server state whose model is one number."""
    return ServerState(round, Shared(Model({"w": torch.tensor(number)}, {})), private or {})


@dataclass(frozen=True)
class Plain:
    """Adds up the ids of its clients, times the number in the server state."""

    large: torch.Tensor
    device = torch.device("cpu")

    def on_device(self, device):
        return self

    def merge(self, parts):
        return merge(MeanAggregator(), list(parts))

    def __call__(self, job, state):
        if not isinstance(job, TrainJob):
            return EvalResult(
                job.split, {"threads": torch.get_num_threads(), "private": len(state.private)}, job.client
            )
        total = 0.0
        for client in job.clients:
            for method, argument in job.client_states.get(client, {}).items():
                total += getattr(self, method)(job, argument) or 0.0
            total += client * float(state.model.parameters["w"])
        attempt = -1 if job.attempt is None else job.attempt
        metrics = {"attempt": (float(attempt), 1.0), "pid": (float(os.getpid()), 1.0)}
        return PartialAggregate(
            index=job.index,
            total=torch.tensor([total]).double(),
            weight=1.0,
            members=job.clients,
            metrics=metrics,
        )

    def hang(self, job, attempts):
        if job.attempt in attempts:
            time.sleep(600)

    def slow(self, job, seconds):
        time.sleep(seconds)

    def note(self, job, path):
        Path(path, str(job.index)).touch()

    def signals(self, job, numbers):
        previous = signal.signal(signal.SIGTERM, exit_on_signal)  # as a Trainer does while it fits
        for number in numbers:
            os.kill(os.getpid(), number)
        signal.signal(signal.SIGTERM, previous)

    def loaders(self, job, number):
        return float(sum(batch.sum() for batch in DataLoader(torch.arange(10), batch_size=5, num_workers=number)))

    def orphan(self, job, path):
        if job.attempt == 0:
            subprocess.Popen(["sleep", "600"])
            if os.fork() == 0:  # as a DataLoader does
                time.sleep(600)
            Path(path).write_text(f"{os.getpid()} ")
            os.kill(os.getpid(), signal.SIGKILL)

    def fail(self, job, kind):
        raise NotUnpicklable(1, 2) if kind == "not unpicklable" else ZeroDivisionError("of a client")

    def churn(self, job, times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            parts = [torch.ones(1 << 20) for _ in range(5)]
            parts.clear()
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    def place(self, job, index):
        return float(self.large[index])
