"""A federation that is small enough to be killed a hundred times, and what is compared afterwards."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule

from fedlit import FedAvg, Federation, Iid, Loading, Schedule, TensorSamples
from fedlit.client.trainer import TrainerConfig
from fedlit.core import serialization as wire
from fedlit.core.files import Filesystem, LocalFilesystem
from fedlit.core.messages import Aggregate, ServerState, Update
from fedlit.core.tensors import axpy, scale, zeros_like
from fedlit.data import Data
from fedlit.executors.executor import Executor
from fedlit.runs.layout import CHECKPOINTS
from fedlit.server.checkpoint.disk import JOURNAL, DiskCheckpointer, Retention
from fedlit.server.checkpoint.format import MEMORIES, STATE, read_checkpoint
from fedlit.simulation.faults import FailurePolicy

due: list[int] = []
"""Signals that this process sends itself in the next training step."""


class Broken(AssertionError):
    """What had to hold did not."""


def must(holds: bool, what: str) -> None:
    """Raises Broken if something does not hold."""
    if not holds:
        raise Broken(what)


@dataclass(frozen=True)
class Row:
    """One row of the matrix.

    Args:
        name: the fault.
        holds: what has to hold.
        run: makes the fault happen in an empty folder, and says how often or with what; raises if something did not hold.
        slow: whether it takes seconds.
    """

    name: str
    holds: str
    run: Callable[[Path], str]
    slow: bool = False


class Rows(list[Row]):
    """Rows, in the order in which they were written."""

    def __call__(self, name: str, holds: str, slow: bool = False) -> Callable[..., Callable[[Path], str]]:
        """Makes a function a row."""

        def keep(run: Callable[[Path], str]) -> Callable[[Path], str]:
            self.append(Row(name, holds, run, slow))
            return run

        return keep


class Tiny(LightningModule):
    """A linear model, with BatchNorm if asked for. In a training step it sends its process the signals that are due."""

    def __init__(self, norm: bool = False, inputs: int = 4) -> None:
        super().__init__()
        norms = [torch.nn.BatchNorm1d(3)] if norm else []
        self.net = torch.nn.Sequential(torch.nn.Linear(inputs, 3), *norms)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        while due:
            os.kill(os.getpid(), due.pop(0))
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@dataclass(frozen=True)
class Quick(FedAvg):
    """Steps that only look like training, in no time; the server has a momentum, the clients remember one."""

    def init(self, model: Any) -> ServerState:
        return super().init(model).with_private(velocity=zeros_like(model.parameters))

    def client(self, local: Any, shared: Any, memory: Any) -> Update:
        x = self.model(shared).parameters
        slope = {name: torch.sin(17 * (local.client + 1) * tensor + local.round) for name, tensor in x.items()}
        momentum = axpy(0.9, memory["momentum"] if memory else zeros_like(x), slope)
        return Update(
            {"parameters": scale(-0.1, momentum)}, weight=local.client + 0.7, client_state={"momentum": momentum}
        )

    def server(self, state: ServerState, mean: Aggregate) -> ServerState:
        velocity = axpy(0.5, state.private["velocity"], mean["parameters"])  # type: ignore[arg-type]
        return (
            super()
            .server(state, Aggregate({"parameters": velocity}, mean.weight, mean.clients, mean.population))
            .with_private(velocity=velocity)
        )


def samples(count: int = 60, seed: int = 0) -> TensorSamples:
    """Three classes of four numbers."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorSamples(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long())


def federation(
    folder: Path,
    disk: Filesystem | None = None,
    algorithm: FedAvg | None = None,
    executor: Executor | None = None,
    faults: FailurePolicy | None = None,
    norm: bool = False,
    partition: Any = None,
    train: TensorSamples | None = None,
    keeping: Retention | None = None,
    **schedule: Any,
) -> Federation:
    """A federation whose commits are in the folder."""
    given = {"rounds": 4, "clients_per_round": 2, "local_steps": 1, "client_state": "keep", **schedule}
    return Federation.of(
        lambda: Tiny(norm),
        Data("tiny", train or samples(), None, (4,), ("a", "b", "c")),
        partition or Iid(4),
        algorithm or Quick(),
        Schedule(**given),
        seed=1,
        loading=Loading(batch_size=5, val_fraction=0.0),
        recipe=TrainerConfig({"accelerator": "cpu"}),
        executor=executor,
        commits=DiskCheckpointer(folder, keeping or Retention(), disk or LocalFilesystem()),
        faults=faults,
    )


def run(folder: Path, **options: Any) -> dict[str, Any]:
    """Runs to the end, or goes on to it; see `left`."""
    folder.mkdir(exist_ok=True)
    whole = federation(folder, **options)
    for _ in whole.run():
        pass
    return left(folder)


def left(folder: Path) -> dict[str, Any]:
    """All of a run that has to be the same to the bit: records less their times, state, memories, names of what is kept."""
    kept = folder / CHECKPOINTS
    records = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    last = max(int(path.name.removeprefix("round-")) for path in kept.glob("round-*"))
    state, store, _ = read_checkpoint(folder, last)
    memories = {client: (since, store.read([client])[client]) for client, since in sorted(store.last_update.items())}
    return {
        "records": [{k: repr(v) for k, v in record.items() if not k.startswith("time/")} for record in records],
        "state": bits(state),
        "memories": {
            c: (since, wire.to_safetensors(wire.flatten_client_states({c: m}))) for c, (since, m) in memories.items()
        },
        "names": sorted(path.name for path in kept.iterdir() if not path.name.startswith("bad-")),
        "files": {
            str(path.relative_to(kept)): path.read_bytes()
            for path in sorted(kept.rglob("*"))
            if path.name in (STATE, MEMORIES) and not path.relative_to(kept).parts[0].startswith("bad-")
        },
    }


def bits(state: ServerState) -> bytes:
    """All that a state is, byte by byte."""
    return str(state.round).encode() + wire.to_safetensors(wire.flatten_state(state))


def same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "") -> None:
    """Raises Broken with what is not the same to the bit."""
    odd = [name for name, value in wanted.items() if found.get(name) != value]
    must(not odd, f"{where + ': ' if where else ''}{', '.join(odd)} differ from the unbroken run's")


class _Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def listening(name: str = "fedlit") -> Iterator[list[str]]:
    """In the block what a logger is told is kept, and shown nowhere."""
    logger, kept = logging.getLogger(name), _Kept()
    shown, logger.propagate = logger.propagate, False
    logger.addHandler(kept)
    try:
        yield kept.said
    finally:
        logger.removeHandler(kept)
        logger.propagate = shown


def copied(folder: Path, name: str) -> Path:
    """A copy beside a folder."""
    return shutil.copytree(folder, folder.with_name(name))
