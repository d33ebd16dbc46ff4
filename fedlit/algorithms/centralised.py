"""All clients' samples in one place: the yardstick that federated training is held against."""

from __future__ import annotations

from dataclasses import dataclass

from fedlit.algorithms.fedavg import FedAvg


@dataclass(frozen=True)
class Centralised(FedAvg):
    """One client that has everybody's training samples, and takes part in every round; a round is as many passes over all of
    them as the schedule gives a client. Evaluation, on the clients' own test samples too, is what it is for the others."""

    pooled = True
