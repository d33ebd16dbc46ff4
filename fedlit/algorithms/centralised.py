"""Centralised training: the examples of all clients in one place. A baseline for federated training."""

from __future__ import annotations

from dataclasses import dataclass

from fedlit.algorithms.fedavg import FedAvg


@dataclass(frozen=True)
class Centralised(FedAvg):
    """One client owns all training examples and takes part in every round.

    A round has as many passes over them as the schedule gives a client. Evaluation is the same as for other algorithms, also
    on the clients' own test sets.
    """

    @property
    def pooled(self) -> bool:
        """True: one client trains on the examples of all clients."""
        return True
