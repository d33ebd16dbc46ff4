"""What a run takes, in RAM and on the disk: bounds, known before round 1."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

import numpy as np

from fedlit.core import serialization as wire
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.tensors import Groups
from fedlit.experiment.observers import Run

CHECKPOINTS = 3  # best.ckpt, model.ckpt, model.safetensors


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that clients' memories take at most, while no client that trains is left out.

    Args:
        client: one client's.
        ram: those of all who may take part, and a round's once more while it is written.
        disk: those of the commits that are kept, and of one that is being written.
    """

    client: int
    ram: int
    disk: int


def estimate_client_state(run: Run, client: int) -> MemoryEstimate:
    """What memories of so many bytes each come to. A round's are a file, which stays while a kept commit needs one of them: the
    newest is needed whole, an older one as long as one of its clients was not sampled again."""
    schedule, clients = run.federation.schedule, len(run.federation.population)
    cohort, rounds, every = min(schedule.cohort_size(clients), clients), schedule.rounds, run.retention.every
    part = min(clients, cohort * rounds)
    apart = 0 if every is None else rounds // every
    files = min(rounds, (1 + part - cohort) * (1 + apart) + run.retention.keep)
    return MemoryEstimate(client, client * (part + cohort), client * cohort * files)


def client_state_nbytes(run: Run) -> int:
    """Bytes that a client of median size remembers after a step; 0 if clients remember nothing."""
    federation = run.federation
    local = federation.worker.local(0, median_client(federation.population.sizes), {})
    short = replace(local, trainer_config=replace(local.trainer_config, steps=1))
    update = federation.algorithm.client(short, federation.algorithm.init(federation.initial).shared, {})
    return groups_nbytes({**update.client_state, **short.optimizer_state})


def median_client(sizes: np.ndarray) -> int:
    """A client with as many samples as half of those that have some."""
    some = np.flatnonzero(sizes > 0)
    return int(some[np.argsort(sizes[some])[len(some) // 2]])


def groups_nbytes(memory: Groups) -> int:
    """Bytes of a memory's tensors."""
    return sum(tensor.numel() * tensor.element_size() for named in memory.values() for tensor in named.values())


def check_disk_space(run: Run) -> None:
    """Raises Mistakes if the disk has not room for the commits that are kept, one being written, and the checkpoints."""
    state = run.federation.algorithm.init(run.federation.initial)
    size = sum(tensor.numel() * tensor.element_size() for tensor in wire.flatten_state(state).values())
    need, free = size * (run.retention.keep + 1 + CHECKPOINTS), shutil.disk_usage(run.folder).free
    if need > free:
        why = f"has room for {free / 1e6:,.0f} MB, and the run's commits and checkpoints take {need / 1e6:,.0f} MB"
        raise ConfigErrors(
            [ConfigError("hydra.run.dir", run.folder, why, "make room, or hydra.run.dir=FOLDER on another disk")]
        )
