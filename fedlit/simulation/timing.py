"""Values of the virtual clock.

The values are the work of clients in a round, and their simulated times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedlit.core.messages import ClientFailure


class ClientTiming(NamedTuple):
    """A client's work in a round, and its simulated time.

    Args:
        planned: optimizer steps of all its local work.
        done: steps that it does before the deadline; -1 if its transfers alone miss the deadline.
        needed_s: seconds for all its work.
        spent_s: seconds until the update of its `done` steps has arrived.
    """

    planned: int
    done: int
    needed_s: float
    spent_s: float


@dataclass(frozen=True, kw_only=True)
class RoundWork:
    """The work of some clients in a round that takes time.

    Args:
        clients: their ids.
        steps: planned optimizer steps of each, shape (clients,).
        down_bytes: bytes that the server sends to each client.
        up_bytes: bytes that each client sends to the server.
        seed: the seed of the experiment.
    """

    clients: Sequence[int]
    steps: np.ndarray
    down_bytes: int
    up_bytes: int
    seed: int


class TimedCohort(NamedTuple):
    """A cohort with its simulated times.

    Args:
        clients: clients that train, in the cohort's order.
        budgets: optimizer steps after which a client stops, for each client with fewer steps than planned.
        failures: clients that the server does not wait for.
        metrics: metrics for the record of the round.
    """

    clients: tuple[int, ...]
    budgets: dict[int, int]
    failures: tuple[ClientFailure, ...]
    metrics: dict[str, float]
