"""What runs with the same seed have in common, and what makes an experiment, as digests that can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlit.core import serialization as wire
from fedlit.data.client_data import ClientData
from fedlit.data.population import Population

if TYPE_CHECKING:
    from fedlit.server.federation import Federation

SCHEDULED = (
    "local_epochs",
    "local_steps",
    "over_select",
    "quorum",
    "client_state",
    "lr",
    "lr_every",
    "lr_gamma",
    "lr_floor",
)
"""What of the schedule the bits of a round depend on, with the cohort's size."""


def fingerprint(federation: Federation) -> dict[str, Any]:
    """What makes an experiment, as plain values by name: two federations with the same one may go on with each other's
    rounds, as far as can be told. Of the number of rounds it says only what the rates of a cosine need."""
    holdings, schedule, algorithm = federation.worker.data, federation.schedule, federation.algorithm
    state, clients = algorithm.init(federation.initial), len(federation.population)
    sent = sum(tensor.numel() for _, tensor in wire.named_paths(state.shared))
    made = {
        "seed": federation.seed,
        "partition": f"{clients:,} clients, sha256 {_partition(holdings)[:16]}",
        "layout": f"{sent:,} numbers, sha256 {wire.layout_sha256(wire.state_tree(state))[:16]}",
        "loading.batch_size": holdings.loading.batch_size,
        "loading.drop_last": holdings.loading.drop_last,
        "schedule.cohort": schedule.cohort_size(clients),
        **{f"schedule.{name}": getattr(schedule, name) for name in SCHEDULED},
        **dict(_plain("algorithm", algorithm)),
        **dict(_plain("clock", federation.clock)),
    }
    return made | ({"schedule.rounds": schedule.rounds} if schedule.lr == "cosine" else {})


def _plain(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A plain value; the name of any other's type and, of a dataclass, what its fields are."""
    if value is None or isinstance(value, bool | int | float | str):
        yield key, value
        return
    yield key, type(value).__name__
    for field in fields(value) if is_dataclass(value) else ():
        yield from _plain(f"{key}.{field.name}", getattr(value, field.name))


def _partition(holdings: ClientData) -> str:
    digest = hashlib.sha256()
    own = holdings.client_tests
    for population in (holdings.population, *(() if own is None else (own.population,))):
        for part in _parts(population):
            digest.update(part)
    return digest.hexdigest()


def _parts(population: Population) -> list[bytes]:
    """The bytes that tell a population; a range of a million samples is told by its ends."""
    index = population.index
    told = str(index).encode() if isinstance(index, range) else np.asarray(index, dtype=np.int64).tobytes()
    noise = b"" if population.noise is None else np.asarray(population.noise, dtype=np.float64).tobytes()
    return [told, np.asarray(population.offsets, dtype=np.int64).tobytes(), noise]
