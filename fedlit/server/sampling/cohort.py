"""A round's cohort as it was drawn, and what asking for it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.core.messages import ClientFailure, LossJob, LossResult, ServerState
from fedlit.core.streams import Purpose, stream
from fedlit.executors.executor import Execute
from fedlit.server.sampling.sampler import ClientPool, Sampler

LOSS_REPLY_BYTES = 8
"""Bytes of a candidate's answer: its loss, a float64."""


@dataclass(frozen=True)
class Drawn:
    """A round's cohort.

    Args:
        cohort: its clients, those with most examples first; of equal ones the lower id.
        sent: how many clients were sent the model: the cohort, and who was asked for a loss.
        bytes: length of the candidates' answers.
        failures: candidates that failed to answer and are not in the cohort.
        metrics: what the record is to say.
    """

    cohort: tuple[int, ...]
    sent: int
    bytes: int
    failures: tuple[ClientFailure, ...]
    metrics: Mapping[str, float]


class LossOracle:
    """Asks clients for their losses in a round, each once, and keeps the answers."""

    def __init__(self, round: int, state: ServerState, execute: Execute) -> None:
        self._round, self._state, self._execute = round, state, execute
        self.answers: dict[int, LossResult] = {}

    def __call__(self, clients: np.ndarray) -> np.ndarray:
        """See `Pool.losses`."""
        ids = [int(client) for client in clients]
        jobs = [LossJob(self._round, client) for client in dict.fromkeys(ids) if client not in self.answers]
        for answer in self._execute(jobs, self._state):
            assert isinstance(answer, LossResult)
            self.answers[answer.client] = answer
        return np.array([self.answers[client].value for client in ids], dtype=np.float64)


def drawn(sampler: Sampler, sizes: np.ndarray, seed: int, state: ServerState, round: int, execute: Execute) -> Drawn:
    """Who takes part in a round.

    Args:
        sampler: who decides.
        sizes: samples of each client, shape (clients,).
        seed: of the experiment.
        state: before the round.
        round: counted from 0.
        execute: what does the jobs by which clients are asked.

    Raises:
        Mistake: if the sampler names a client twice, or one that there is not.
    """
    losses = LossOracle(round, state, execute)
    pool = ClientPool(sizes, round, seed, losses)
    cohort = draw_cohort(sampler, pool)
    answers = losses.answers.values()
    metrics = getattr(sampler, "metrics", None)  # most samplers have none
    figures = dict(metrics(pool)) if metrics is not None else {}
    return Drawn(
        cohort,
        len(losses.answers.keys() | set(cohort)),
        LOSS_REPLY_BYTES * sum(answer.failure is None for answer in answers),
        tuple(a.failure for a in answers if a.failure is not None and a.client not in cohort),
        {**figures, **({"clients/asked": len(losses.answers)} if losses.answers else {})},
    )


def draw_cohort(sampler: Sampler, pool: ClientPool) -> tuple[int, ...]:
    """The cohort that a sampler draws from a pool, those with most examples first; of equal ones the lower id.

    Raises:
        Mistake: if the sampler names a client twice, or one that there is not.
    """
    ids = np.asarray(sampler(pool, stream(pool.seed, Purpose.COHORT, pool.round)))
    name, remedy = type(sampler).__name__, "it returns different ids out of range(len(pool))"
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ConfigError("sampler", name, f"draws {ids.dtype} of shape {list(ids.shape)}, which are no ids", remedy)
    odd = [int(client) for client in ids if not 0 <= client < len(pool)]
    if odd or len(np.unique(ids)) < len(ids):
        why = f"draws client {odd[0]}, and there are {len(pool)}" if odd else "draws a client twice"
        raise ConfigError("sampler", name, why, remedy)
    return tuple(sorted((int(client) for client in ids), key=lambda client: (-pool.sizes[client], client)))


@dataclass(frozen=True)
class RoundPlan:
    """Who is asked in a round.

    Args:
        cohort: who was sampled, those with most examples first.
        asked: who trains, in that order; None for all of them.
        budgets: optimizer steps after which a client is cut short, of those that are.
        failures: clients whose update is not waited for.
        metrics: what the record is to say.
        bytes: length of what clients sent before they trained.
    """

    cohort: tuple[int, ...]
    asked: tuple[int, ...] | None = None
    budgets: Mapping[int, int] = field(default_factory=dict)
    failures: tuple[ClientFailure, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes: int = 0

    @property
    def clients(self) -> tuple[int, ...]:
        """Who trains."""
        return self.cohort if self.asked is None else self.asked
