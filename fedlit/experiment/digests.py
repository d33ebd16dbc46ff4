"""TODO."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from fedlit.core import serialization as wire
from fedlit.runs.record import RoundRecord
from fedlit.server.fingerprint import _partition

if TYPE_CHECKING:
    from fedlit.server.federation import Federation


class PairingDigests:
    """Follows the rounds of a run. Two runs whose digests are equal met the same partition, initial weights, cohorts, and
    order of each client's samples.

    Args:
        federation: whose rounds they are.
    """

    def __init__(self, federation: Federation) -> None:
        self._holdings, self._initial = federation.worker.data, federation.initial
        self._cohorts, self._batches = hashlib.sha256(), hashlib.sha256()
        loading = self._holdings.loading
        self._batches.update(f"{loading.batch_size} {loading.drop_last}\n".encode())

    def add(self, record: RoundRecord) -> None:
        """Takes in the next round."""
        self._cohorts.update(f"{record.number}: {' '.join(map(str, record.cohort))}\n".encode())
        for client in record.cohort:
            generator = self._holdings.batch_order(record.number - 1, client)
            order = torch.randperm(self._holdings.population.size(client), generator=generator)
            self._batches.update(order.numpy().tobytes())

    def summary(self) -> dict[str, str]:
        """SHA-256, for summary.json: `partition`, with clients' own test samples; `init`, of parameters and buffers;
        `cohorts`, of everybody who was asked, round by round; `batches`, of the order of each one's samples in its first
        epoch, and of how they are cut into batches. The samples themselves are in none."""
        return {
            "partition": _partition(self._holdings),
            "init": wire.state_sha256({"initial": self._initial}),
            "cohorts": self._cohorts.hexdigest(),
            "batches": self._batches.hexdigest(),
        }
