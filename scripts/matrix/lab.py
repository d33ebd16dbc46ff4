"""A federation that is small enough to be killed a hundred times, and the comparison of its runs."""

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

from fedlit import Channel, FedAvg, Federation, Iid, Loading, Schedule, TensorSamples
from fedlit.client.trainer import TrainerConfig
from fedlit.core import serialization
from fedlit.core.files import Filesystem, LocalFilesystem
from fedlit.core.messages import Aggregate, ServerState, Update
from fedlit.core.tensors import axpy, scale, zeros_like
from fedlit.data import Data
from fedlit.executors.executor import Executor
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checkpoint.format import STATE, read_checkpoint
from fedlit.server.checkpoint.segments import CLIENT_STATES, LEDGER
from fedlit.simulation.faults import FailurePolicy

due: list[int] = []
"""Signals that this process sends to itself in the next training step."""


class Broken(AssertionError):
    """A condition of a row does not hold."""


def expect(condition: bool, problem: str) -> None:
    """Raise Broken if a condition does not hold."""
    if not condition:
        raise Broken(problem)


@dataclass(frozen=True)
class Row:
    """One row of the matrix.

    Args:
        name: the fault.
        holds: the condition of the row.
        run: injects the fault in an empty folder and returns a remark; raises an error if the condition does not hold.
        slow: True if the row takes seconds.
    """

    name: str
    holds: str
    run: Callable[[Path], str]
    slow: bool = False


class Rows(list[Row]):
    """Rows in the order of their definition."""

    def __call__(self, name: str, holds: str, slow: bool = False) -> Callable[..., Callable[[Path], str]]:
        """Return a decorator that adds a function as a row."""

        def add(run: Callable[[Path], str]) -> Callable[[Path], str]:
            self.append(Row(name, holds, run, slow))
            return run

        return add


class Tiny(LightningModule):
    """A linear model, with BatchNorm if `norm`; its training step sends the signals in `due` to this process."""

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
    """Steps that imitate training in no time; the server and the clients each have a momentum."""

    def init(self, model: Any) -> ServerState:
        return super().init(model).with_private(velocity=zeros_like(model.parameters))

    def client(self, local: Any, shared: Any, client_state: Any) -> Update:
        x = self.model(shared).parameters
        if not local.examples:  # a template of an update, from which only names, shapes and dtypes are taken
            return Update({"parameters": zeros_like(x)}, weight=0.0)
        gradient = {name: torch.sin(17 * (local.client + 1) * tensor + local.round) for name, tensor in x.items()}
        momentum = axpy(0.9, client_state["momentum"] if client_state else zeros_like(x), gradient)
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
    """Return samples of four numbers in three classes."""
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
    retention: Retention | None = None,
    channel: Channel | None = None,
    **schedule: Any,
) -> Federation:
    """Return a federation whose checkpoints are in the folder."""
    options = {"rounds": 4, "clients_per_round": 2, "local_steps": 1, "client_state": "keep", **schedule}
    return Federation.of(
        lambda: Tiny(norm),
        Data("tiny", train or samples(), None, (4,), ("a", "b", "c")),
        partition or Iid(4),
        algorithm or Quick(),
        Schedule(**options),
        seed=1,
        loading=Loading(batch_size=5, val_fraction=0.0),
        trainer_config=TrainerConfig({"accelerator": "cpu"}),
        executor=executor,
        channel=channel,
        checkpointer=DiskCheckpointer(folder, retention or Retention(), disk or LocalFilesystem()),
        faults=faults,
    )


def run(folder: Path, **options: Any) -> dict[str, Any]:
    """Run or resume a federation to its end, and return its files; see `read_run`."""
    folder.mkdir(exist_ok=True)
    for _ in federation(folder, **options).run():
        pass
    return read_run(folder)


def read_run(folder: Path) -> dict[str, Any]:
    """Return everything of a run that must be bit-identical.

    This is the records without their times, the server state, the client state, and the names and files of the checkpoints.
    """
    checkpoints = folder / CHECKPOINTS
    records = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    last = max(int(path.name.removeprefix("round-")) for path in checkpoints.glob("round-*"))
    state, store, _ = read_checkpoint(folder, last)
    client_states = {
        client: (since, store.read([client])[client]) for client, since in sorted(store.last_update.items())
    }
    return {
        "records": [{k: repr(v) for k, v in record.items() if not k.startswith("time/")} for record in records],
        "state": state_content(state),
        "client_states": {
            c: (since, serialization.to_safetensors(serialization.flatten_client_states({c: m})))
            for c, (since, m) in client_states.items()
        },
        "names": sorted(path.name for path in checkpoints.iterdir() if not path.name.startswith("bad-")),
        "files": {
            str(path.relative_to(checkpoints)): path.read_bytes()
            for path in sorted(checkpoints.rglob("*"))
            if path.name in (STATE, CLIENT_STATES, LEDGER)
            and not path.relative_to(checkpoints).parts[0].startswith("bad-")
        },
    }


def state_content(state: ServerState) -> bytes:
    """Return all bytes of a server state."""
    return str(state.round).encode() + serialization.to_safetensors(serialization.flatten_state(state))


def expect_same(result: Mapping[str, Any], expected: Mapping[str, Any], where: str = "") -> None:
    """Raise Broken with the names of the parts that are not bit-identical."""
    names = [name for name, value in expected.items() if result.get(name) != value]
    expect(not names, f"{where + ': ' if where else ''}{', '.join(names)} differ from the run without a fault")


class _LogList(logging.Handler):
    """Keeps the messages of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def capture_logs(name: str = "fedlit") -> Iterator[list[str]]:
    """Yield the list of messages that a logger gets within the block; nothing is printed."""
    logger, handler = logging.getLogger(name), _LogList()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def copy_folder(folder: Path, name: str) -> Path:
    """Copy a folder to a new name beside it, and return the copy."""
    return shutil.copytree(folder, folder.with_name(name))
