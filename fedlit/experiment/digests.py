"""Digests that show whether two runs are paired."""

from __future__ import annotations

import hashlib

import torch

from fedlit.core.serialization import state_sha256
from fedlit.data.client_data import partition_sha256
from fedlit.runs.record import RoundRecord
from fedlit.server.federation import FederationParts


class PairingDigests:
    """Digests of a run's partition, initial weights, cohorts and batches.

    Runs with equal digests had the same partition, initial weights and cohorts, and the same order of each client's samples.

    Args:
        federation: the federation of the run.
    """

    def __init__(self, federation: FederationParts) -> None:
        self._data, self._initial = federation.worker.data, federation.initial
        self._cohorts, self._batches = hashlib.sha256(), hashlib.sha256()
        loading = self._data.loading
        self._batches.update(f"{loading.batch_size} {loading.drop_last}\n".encode())

    def add(self, record: RoundRecord) -> None:
        """Add the next round."""
        self._cohorts.update(f"{record.number}: {' '.join(map(str, record.cohort))}\n".encode())
        for client in record.cohort:
            generator = self._data.batch_order(record.number - 1, client)
            order = torch.randperm(self._data.population.size(client), generator=generator)
            self._batches.update(order.numpy().tobytes())

    def summary(self) -> dict[str, str]:
        """Return the SHA-256 digests for summary.json.

        The values of samples enter none of them.

        Returns:
            `partition` (with clients' own test sets), `init` (parameters and buffers), `cohorts` (sampled clients of each
            round) and `batches` (order of each client's samples in its first epoch, batch size and `drop_last`).
        """
        return {
            "partition": partition_sha256(self._data),
            "init": state_sha256({"initial": self._initial}),
            "cohorts": self._cohorts.hexdigest(),
            "batches": self._batches.hexdigest(),
        }
