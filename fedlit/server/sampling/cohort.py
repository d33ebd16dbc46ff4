"""The plan of a round: cohort, step budgets, excluded clients."""

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
"""Length of a candidate's reply in bytes: its loss, a float64."""


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """The plan of a round.

    Args:
        cohort: sampled clients, those with most examples first.
        clients: clients of the cohort that train, in the same order.
        budgets: maximum of optimizer steps, for clients with a step budget.
        failures: clients that are left out before training.
        metrics: figures for the round's record.
        up_bytes: bytes that clients sent before they train.
    """

    cohort: tuple[int, ...]
    clients: tuple[int, ...]
    budgets: Mapping[int, int] = field(default_factory=dict)
    failures: tuple[ClientFailure, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    up_bytes: int = 0


class LossOracle:
    """Losses of clients in one round; each client is measured once.

    Args:
        state: the server state before the round.
        execute: executes the jobs.
    """

    def __init__(self, state: ServerState, execute: Execute) -> None:
        self._state, self._execute = state, execute
        self.results: dict[int, LossResult] = {}

    def __call__(self, clients: np.ndarray) -> np.ndarray:
        """Return the losses of some clients: see `ClientPool.losses`."""
        ids = [int(client) for client in clients]
        jobs = [LossJob(self._state.round, client) for client in dict.fromkeys(ids) if client not in self.results]
        for result in self._execute(jobs, self._state):
            assert isinstance(result, LossResult)
            self.results[result.client] = result
        return np.array([self.results[client].value for client in ids], dtype=np.float64)

    @property
    def up_bytes(self) -> int:
        """Bytes of all replies."""
        return LOSS_REPLY_BYTES * sum(result.failure is None for result in self.results.values())

    def failures(self, cohort: tuple[int, ...]) -> tuple[ClientFailure, ...]:
        """Failures of candidates that are not in the cohort."""
        failures = (result.failure for result in self.results.values())
        return tuple(failure for failure in failures if failure is not None and failure.client not in cohort)

    def metrics(self) -> dict[str, float]:
        """The number of candidates, if there are any."""
        return {"clients/asked": len(self.results)} if self.results else {}


def draw_cohort(sampler: Sampler, pool: ClientPool) -> tuple[int, ...]:
    """Draw a cohort, sorted by examples, most first, then by id.

    Raises:
        ConfigError: if the sampler returns an id twice, or an id that does not exist.
    """
    ids = np.asarray(sampler(pool, stream(pool.seed, Purpose.COHORT, pool.round)))
    name, hint = sampler.name, "return distinct ids out of range(len(pool))"
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ConfigError("sampler", name, f"draws {ids.dtype} of shape {list(ids.shape)} instead of ids", hint)
    unknown = [int(client) for client in ids if not 0 <= client < len(pool)]
    if unknown or len(np.unique(ids)) < len(ids):
        problem = f"draws client {unknown[0]}, and there are {len(pool)} clients" if unknown else "draws a client twice"
        raise ConfigError("sampler", name, problem, hint)
    return tuple(sorted((int(client) for client in ids), key=lambda client: (-pool.sizes[client], client)))
