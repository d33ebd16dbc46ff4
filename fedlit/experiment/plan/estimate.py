"""The plan of a run before round 1.

The plan states sizes, bytes and seconds, with one batch measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlit.aggregation.basis import find_basis
from fedlit.aggregation.secure.secure_stage import SecureStage
from fedlit.core.model import Model
from fedlit.core.serialization import tensor_nbytes
from fedlit.core.tensors import Layout
from fedlit.experiment.plan.client_states import (
    client_state_nbytes,
    estimate_client_state,
)
from fedlit.experiment.plan.measure import RunCosts, evaluation_seconds, measure_costs, run_threads
from fedlit.experiment.plan.privacy import estimate_privacy
from fedlit.experiment.run import Run
from fedlit.server.federation import FederationParts
from fedlit.server.sampling.cohort import LOSS_REPLY_BYTES, draw_cohort
from fedlit.server.sampling.sampler import ClientPool

MAX_SAMPLED_ROUNDS = 100
"""Largest number of rounds whose cohorts are drawn."""

ROUND_S = 0.03
"""Seconds of a round beyond its jobs: the sum, the checkpoint and the observers; measured values are 0.02 to 0.05."""


def estimate_run(run: Run) -> dict[str, Any]:
    """Estimate a run, or the rest of a run that is resumed.

    It measures some batches as the run would run them, for a few seconds. Nothing of it is kept.

    Returns:
        `clients`, `samples_per_client` (quantiles), `cohort`, `sampled` and `asked` (for their losses), which are means a
        round, `cohorts` (the smallest and the largest), `rounds`, `done` (rounds), `steps_per_client` (quantiles),
        `parameters`, `buffers`, `federated`, `stay`, `up_bytes_per_round`, `down_bytes_per_round`, `memory_bytes` (of the
        server's sums and states), `client_states` (a `MemoryEstimate`), `secure_sum` (groups and the losses that they survive),
        `privacy` (its estimate, or None), `batch_s`, `fit_s` (beyond its batches), `evaluation_s`; for the remaining
        rounds the expected `steps`, `bytes`, `seconds`.
    """
    federation, schedule, registry = run.federation, run.federation.schedule, run.federation.registry
    draws, done = _draw_cohorts(run), len(run.finished_rounds)
    means = {name: float(np.mean([getattr(draw, name) for draw in draws])) for name in ("cohort", "sampled", "asked")}
    per_client, rounds = federation.planned_steps(registry.sizes), max(0, schedule.rounds - done)
    with run_threads(run):
        costs, layout = measure_costs(run, asks=means["asked"] > 0)
        client_state = client_state_nbytes(run)
    down_nbytes = federation.down_nbytes(federation.initial_state())
    up_more, down_more = federation.exchange_nbytes()
    up = (federation.channel.nbytes(layout) + up_more) * means["cohort"] + LOSS_REPLY_BYTES * means["asked"]
    down = down_nbytes * max(means["sampled"], means["asked"]) + down_more * means["sampled"]
    return {
        "clients": len(registry),
        "samples_per_client": _quantiles(registry.sizes),
        **means,
        "cohorts": [min(draw.cohort for draw in draws), max(draw.cohort for draw in draws)],
        "rounds": schedule.rounds,
        "done": done,
        "steps_per_client": _quantiles(per_client),
        "steps": float(per_client.mean()) * means["cohort"] * rounds,
        **_model_figures(federation.initial, {name for _, name, _ in layout.entries}),
        "up_bytes_per_round": up,
        "down_bytes_per_round": down,
        "bytes": (up + down) * rounds,
        "memory_bytes": _memory_bytes(federation, layout, means["cohort"]),
        "client_states": estimate_client_state(run, client_state),
        "privacy": estimate_privacy(run, federation.channel.encoded_layout(layout).size),
        "secure_sum": "" if federation.channel.secure is None else _describe(federation.channel.secure, draws),
        "batch_s": costs.fit.unit,
        "fit_s": costs.fit.fixed,
        "evaluation_s": sum(evaluation_seconds(run, costs, ())),
        "seconds": _estimate_seconds(run, draws, costs),
    }


def _memory_bytes(federation: FederationParts, layout: Layout, cohort: float) -> int:
    """Bytes of the server's sums, states, and updates between two exchanges.

    A state is counted twice, before and after the round, with what stays with the server, such as a noise history.
    """
    state = federation.initial_state()
    private = [*state.private.values(), *(part.private for part in state.channel.values())]
    kept = sum(tensor_nbytes(tensor) for tensors in private for tensor in tensors.values())
    each = max(8 * layout.size, federation.channel.nbytes(layout))
    sums = each * (2 + math.ceil(math.log2(max(2, cohort))))
    pending = 0 if find_basis(federation.channel.stages) is None else 4 * layout.size * math.ceil(cohort)
    return sums + pending + 2 * (federation.down_nbytes(state) + kept)


def _describe(stage: SecureStage, draws: Sequence[Draw]) -> str:
    return stage.describe(min(draw.sampled for draw in draws))


@dataclass(frozen=True)
class Draw:
    """The cohort of one round.

    Args:
        clients: the drawn clients.
        trained: those of them that train; with `schedule.over_select` the fastest by the clock.
        cohort: number of clients that the server waits for.
        asked: number of clients that are asked for their losses.
    """

    clients: Sequence[int]
    trained: Sequence[int]
    cohort: int
    asked: int

    @property
    def sampled(self) -> int:
        """Number of drawn clients."""
        return len(self.clients)


def _draw_cohorts(run: Run) -> list[Draw]:
    """Draw the cohorts of the first rounds, with losses of 0."""
    federation, draws = run.federation, []
    schedule, sizes, state = federation.schedule, federation.registry.sizes, federation.initial_state()
    for number in range(min(schedule.rounds, MAX_SAMPLED_ROUNDS)):
        asked: set[int] = set()

        def losses(clients: np.ndarray, asked: set[int] = asked) -> np.ndarray:
            asked.update(clients.tolist())
            return np.zeros(len(clients))

        cohort = draw_cohort(federation.sampler, ClientPool(sizes, number, federation.seed, losses))
        if schedule.over_select > 1 and federation.clock is not None:
            fastest = min(schedule.cohort_size(len(sizes)), len(cohort))
            trained = federation.clock.time_cohort(federation.round_work(cohort, state), fastest).clients
            draws.append(Draw(cohort, trained, fastest, len(asked)))
        else:
            draws.append(Draw(cohort, cohort, len(cohort), len(asked)))
    return draws


def _estimate_seconds(run: Run, draws: Sequence[Draw], costs: RunCosts) -> float:
    """Return the expected seconds of the remaining rounds.

    Rounds beyond those that were drawn have the cohorts of the drawn ones, again and again.
    """
    federation, done = run.federation, len(run.finished_rounds)
    steps = federation.planned_steps(federation.registry.sizes)
    own = federation.registry.num_client_tests
    rounds = []
    for number in range(done, federation.schedule.rounds):
        draw = draws[number % len(draws)]
        trained = [costs.fit.seconds(float(steps[client])) for client in draw.trained]
        phases = [[costs.loss_s] * draw.asked, trained]
        if federation.schedule.is_evaluated(number):
            ids = federation.registry.clients_to_evaluate(draw.clients)
            jobs = federation.evaluations.make_jobs(number, (), own, ids, federation.seed)
            clients = [job.client for job in jobs if job.client is not None]
            phases.append(evaluation_seconds(run, costs, clients))
        rounds.append(phases)
    jobs_s = federation.executor.estimate_seconds(rounds, federation.worker.device)
    return jobs_s + ROUND_S * len(rounds)


def _model_figures(model: Model, sent: set[str]) -> dict[str, Any]:
    return {
        "parameters": sum(t.numel() for t in model.parameters.values()),
        "buffers": sum(t.numel() for t in model.buffers.values()),
        "federated": sum(t.numel() for name, t in model.state_dict().items() if name in sent),
        "stay": sorted(set(model.state_dict()) - sent),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    marks = ("min", "25 %", "median", "75 %", "max")
    return dict(zip(marks, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))
