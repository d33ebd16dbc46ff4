"""What runs with the same seed have in common, and what makes an experiment, as digests that can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedlit import wire
from fedlit.data.holdings import Holdings
from fedlit.data.population import Population
from fedlit.record import Round

if TYPE_CHECKING:
    from fedlit.federation import Federation

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
    holdings, schedule, algorithm = federation.worker.holdings, federation.schedule, federation.algorithm
    state, clients = algorithm.init(federation.initial), len(federation.population)
    sent = sum(tensor.numel() for _, tensor in wire.paths(state.shared))
    made = {
        "seed": federation.seed,
        "partition": f"{clients:,} clients, sha256 {_partition(holdings)[:16]}",
        "layout": f"{sent:,} numbers, sha256 {wire.layout(wire.whole(state))[:16]}",
        "loading.batch_size": holdings.loading.batch_size,
        "loading.drop_last": holdings.loading.drop_last,
        "schedule.cohort": schedule.cohort(clients),
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


class Digests:
    """Follows the rounds of a run. Two runs whose digests are equal met the same partition, initial weights, cohorts, and
    order of each client's samples.

    Args:
        federation: whose rounds they are.
    """

    def __init__(self, federation: Federation) -> None:
        self._holdings, self._initial = federation.worker.holdings, federation.initial
        self._cohorts, self._batches = hashlib.sha256(), hashlib.sha256()
        loading = self._holdings.loading
        self._batches.update(f"{loading.batch_size} {loading.drop_last}\n".encode())

    def add(self, record: Round) -> None:
        """Takes in the next round."""
        self._cohorts.update(f"{record.number}: {' '.join(map(str, record.cohort))}\n".encode())
        for client in record.cohort:
            generator = self._holdings.order(record.number - 1, client)
            order = torch.randperm(self._holdings.population.size(client), generator=generator)
            self._batches.update(order.numpy().tobytes())

    def summary(self) -> dict[str, str]:
        """SHA-256, for summary.json: `partition`, with clients' own test samples; `init`, of parameters and buffers;
        `cohorts`, of everybody who was asked, round by round; `batches`, of the order of each one's samples in its first
        epoch, and of how they are cut into batches. The samples themselves are in none."""
        return {
            "partition": _partition(self._holdings),
            "init": wire.sha256({"initial": self._initial}),
            "cohorts": self._cohorts.hexdigest(),
            "batches": self._batches.hexdigest(),
        }


def _partition(holdings: Holdings) -> str:
    digest = hashlib.sha256()
    own = holdings.own_test
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
