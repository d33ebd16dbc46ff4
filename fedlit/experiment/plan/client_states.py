"""Upper bounds on a run's RAM and disk space, before round 1."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.filesize import decimal

from fedlit.aggregation.basis import find_basis
from fedlit.aggregation.channel import pack_channel_states
from fedlit.aggregation.channel.message import Turn
from fedlit.aggregation.secure.reply import make_reply, without_secure
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.serialization import flatten_state, groups_nbytes, tensor_nbytes
from fedlit.experiment.run import Run

WEIGHT_FILES = 3
"""Files of a run with the model's weights: best.ckpt, model.ckpt, model.safetensors."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Upper bounds on the bytes of client states.

    The bounds hold as long as no client that trains is left out.

    Args:
        client: state of one client.
        ram: states in memory at the same time. Of a round's cohort these are the states before and after it, and the latter
            once more while they are written. An evaluation of clients' own models reads the states of those clients.
        disk: states in the kept checkpoints, and in one that is being written.
    """

    client: int
    ram: int
    disk: int


def estimate_client_state(run: Run, client: int) -> MemoryEstimate:
    """Bound the bytes of client states of `client` bytes each.

    The states of one round are one file. It stays while a kept checkpoint needs one of them. The newest checkpoint needs each
    client's state; it needs an older file as long as one of its clients was not sampled again.
    """
    schedule, clients = run.federation.schedule, len(run.federation.registry)
    cohort, rounds, every = min(schedule.cohort_size(clients), clients), schedule.rounds, run.retention.every
    participants = min(clients, cohort * rounds)
    extra = 0 if every is None else rounds // every
    files = min(rounds, (1 + participants - cohort) * (1 + extra) + run.retention.keep)
    evaluated = _clients_to_evaluate(run, cohort) if run.federation.algorithm.personalized else 0
    in_memory = max(3 * cohort, cohort + min(evaluated, participants))
    return MemoryEstimate(client, client * in_memory, client * cohort * files)


def _clients_to_evaluate(run: Run, cohort: int) -> int:
    """Number of clients whose own test sets are evaluated at once."""
    chosen, most = run.federation.evaluations.clients, run.federation.registry.num_client_tests
    return min(most, {"cohort": cohort, "all": most}[chosen] if isinstance(chosen, str) else chosen)


def client_state_nbytes(run: Run) -> int:
    """Bytes of a median-size client's state after one step.

    The channel's part, such as the residual of error feedback, counts. The result is 0 if clients have no state.
    """
    federation, client = run.federation, median_client(run.federation.registry.sizes)
    local, update = federation.dry_run(client, steps=1)
    state = federation.initial_state()
    layout, channel = federation.update_layout(state), without_secure(federation.channel)
    facts: dict[str, Any] = {"round": state.round, "client": client, "seed": federation.seed}
    vector = layout.vector(update.groups)
    _, own = channel.encode(layout, vector, update.weight, **facts, states=state.channel, own={})
    if (stage := find_basis(channel.stages)) is not None:
        basis = bytes(4 * stage.encoded_layout(layout).size)
        turn = Turn(exchange=stage.exchanges[1], request=basis, pending=own[stage.name])
        own = {stage.name: make_reply(channel, layout, turn, **facts)[1]}
    return groups_nbytes({**update.client_state, **local.kept_state, **pack_channel_states(own)})


def median_client(sizes: np.ndarray) -> int:
    """The client of median size among the clients with examples."""
    nonempty = np.flatnonzero(sizes > 0)
    return int(nonempty[np.argsort(sizes[nonempty])[len(nonempty) // 2]])


def check_disk_space(run: Run) -> None:
    """Raise ConfigErrors if the disk cannot hold checkpoints and weight files."""
    state = run.federation.initial_state()
    size = sum(tensor_nbytes(tensor) for tensor in flatten_state(state).values())
    needed, free = size * (run.retention.keep + 1 + WEIGHT_FILES), shutil.disk_usage(run.folder).free
    if needed > free:
        problem = f"has {decimal(free)} free, and the run's checkpoints take {decimal(needed)}"
        hint = "free some space, or put the run on another disk by hydra.run.dir=FOLDER"
        raise ConfigErrors([ConfigError("hydra.run.dir", run.folder, problem, hint)])
