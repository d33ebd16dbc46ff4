"""What is going to happen: the plan of a run, with one batch measured, before round 1."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from fedlit.client.trainer import planned_steps
from fedlit.core import serialization as wire
from fedlit.core.messages import Model
from fedlit.core.tensors import Layout
from fedlit.experiment.config.estimate import MemoryEstimate, client_state_nbytes, estimate_client_state, median_client
from fedlit.experiment.observers import Run
from fedlit.experiment.observers.terminal import size
from fedlit.server.evaluation import Evaluations
from fedlit.server.sampling.cohort import LOSS_REPLY_BYTES, draw_cohort
from fedlit.server.sampling.sampler import ClientPool

FILES = "config.yaml, rounds.jsonl, summary.json, partition.json, checkpoints and what the observers write"

MAX_SAMPLED_ROUNDS = 100
"""Rounds whose cohorts are drawn to see how large they are."""


def estimate_run(run: Run) -> dict[str, Any]:
    """The run in figures, or what is left of it. Trains some batches of a client of median size to measure the time of one,
    and lets them go.

    Returns:
        `clients`, `samples_per_client` (quantiles), `cohort`, `sampled` and `asked` (for their losses), which are means a
        round, `cohorts` (the smallest and the largest), `rounds`, `done` (rounds), `steps_per_client` (quantiles),
        `parameters`, `buffers`, `federated`, `stay`, `up_bytes_per_round`, `down_bytes_per_round`, `memory_bytes` (of the
        server's sums and states), `memories` (of clients, a `Room`), `batch_s`, `fit_s` (beyond its batches),
        `evaluation_s`; of the rounds that are left, as expected: `steps`, `bytes`, `seconds`.
    """
    federation, population = run.federation, run.federation.population
    schedule, worker, sizes = federation.schedule, federation.worker, run.federation.population.sizes
    drawn = _cohorts(run)
    cohort, sampled, asked = drawn["cohort"], drawn["sampled"], drawn["asked"]
    per_client = planned_steps(worker.trainer_config, worker.data.loading, sizes)
    batch_s, fit_s, send = _measured(run)
    ask_s = _asking_seconds(run) if asked else 0.0
    state = federation.algorithm.init(federation.initial)
    vector, held = Layout.of(send), worker.data
    up = (8 + 4 * vector.size if vector.size else 0) * cohort + LOSS_REPLY_BYTES * asked
    down = wire.state_nbytes(state.shared) * max(sampled, asked)
    own = federation.evaluations.make_jobs(
        0, (), held.num_client_tests, held.clients_to_evaluate(range(round(sampled))), 0
    )
    evaluation_s = _evaluation_seconds(run) if federation.splits else 0.0
    done = len(run.finished_rounds)
    rounds, evaluated = max(0, schedule.rounds - done), sum(map(schedule.is_evaluated, range(done, schedule.rounds)))
    expected = float(per_client.mean()) * cohort * rounds
    return {
        "clients": len(population),
        "samples_per_client": _quantiles(sizes),
        **drawn,
        "rounds": schedule.rounds,
        "done": done,
        "steps_per_client": _quantiles(per_client),
        "steps": expected,
        **_model(federation.initial, {name for _, name, _ in vector.entries}),
        "up_bytes_per_round": up,
        "down_bytes_per_round": down,
        "bytes": (up + down) * rounds,
        "memory_bytes": 8 * vector.size * (2 + math.ceil(math.log2(max(2, cohort))))
        + 2 * wire.state_nbytes(state.shared),
        "memories": estimate_client_state(run, client_state_nbytes(run)),
        "batch_s": batch_s,
        "fit_s": fit_s,
        "evaluation_s": evaluation_s,
        "seconds": expected * batch_s
        + rounds * cohort * fit_s
        + rounds * asked * ask_s
        + evaluated * evaluation_s
        + len(own) * evaluated * fit_s,
    }


def _cohorts(run: Run) -> dict[str, Any]:
    """The first rounds' cohorts, drawn as they will be but for losses, which are 0: `sampled`, `asked` for their losses, and
    `cohort`, who is waited for, as means; `cohorts`, the smallest and the largest that is waited for."""
    federation, counts = run.federation, []
    schedule, sizes = federation.schedule, federation.population.sizes
    for number in range(min(schedule.rounds, MAX_SAMPLED_ROUNDS)):
        asked: set[int] = set()

        def losses(clients: np.ndarray, asked: set[int] = asked) -> np.ndarray:
            asked.update(clients.tolist())
            return np.zeros(len(clients))

        cohort = draw_cohort(federation.sampler, ClientPool(sizes, number, federation.seed, losses))
        first = min(schedule.cohort_size(len(sizes)), len(cohort)) if schedule.over_select > 1 else len(cohort)
        counts.append((first, len(cohort), len(asked)))
    array = np.array(counts)
    means = dict(zip(("cohort", "sampled", "asked"), array.mean(axis=0).tolist(), strict=True))
    return {**means, "cohorts": [int(array[:, 0].min()), int(array[:, 0].max())]}


def _model(model: Model, sent: set[str]) -> dict[str, Any]:
    return {
        "parameters": sum(t.numel() for t in model.parameters.values()),
        "buffers": sum(t.numel() for t in model.buffers.values()),
        "federated": sum(t.numel() for name, t in model.state_dict().items() if name in sent),
        "stay": sorted(set(model.state_dict()) - sent),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    marks = ("min", "25 %", "median", "75 %", "max")
    return dict(zip(marks, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist(), strict=True))


def _measured(run: Run) -> tuple[float, float, Any]:
    """Seconds of a batch and of a fit beyond its batches, and what a client sends."""
    federation, client = run.federation, median_client(run.federation.population.sizes)
    shared, send, seconds = federation.algorithm.init(federation.initial).shared, {}, {}
    for steps in (1, 1, 9, 1, 9):  # the first warms up
        local = federation.worker.local(0, client, {})
        short = replace(local, trainer_config=replace(local.trainer_config, steps=steps))
        begin = time.perf_counter()
        send = federation.algorithm.client(short, shared, {}).groups
        seconds[steps] = min(seconds.get(steps, math.inf), time.perf_counter() - begin)
    batch = max(0.0, (seconds[9] - seconds[1]) / 8)
    return batch, max(0.0, seconds[1] - batch), send


def _asking_seconds(run: Run) -> float:
    """Seconds in which a client of median size is asked for its loss."""
    federation = run.federation
    local = federation.worker.local(0, median_client(federation.population.sizes), {})
    begin = time.perf_counter()
    local.loss(federation.algorithm.model(federation.algorithm.init(federation.initial).shared))
    return time.perf_counter() - begin


def _evaluation_seconds(run: Run) -> float:
    """Seconds of evaluating the splits once; measured, for an estimate by a batch misses what is done at the end."""
    federation = run.federation
    state = federation.algorithm.init(federation.initial)
    begin = time.perf_counter()
    for job in Evaluations().make_jobs(0, federation.splits, 0, (), 0):
        federation.worker(job, state)
    return time.perf_counter() - begin


def plan_table(run: Run, figures: dict[str, Any]) -> Table:
    """The plan for a terminal of 80 columns."""
    table = Table(show_header=False, title="plan: nothing was trained", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    stay = ", ".join(figures["stay"][:4]) + (", ..." if len(figures["stay"]) > 4 else "")
    done = figures["done"]
    told = f", {done:,} done, {max(0, figures['rounds'] - done):,} left" if done else ""
    rows = {
        "clients": f"{figures['clients']:,}, {_told(figures)} in a round, {figures['rounds']:,} rounds{told}",
        "samples a client": _line(figures["samples_per_client"]),
        "steps a client": f"{_line(figures['steps_per_client'])}; about {figures['steps']:,.0f} {'left' if done else 'in all'}",
        "model": f"{figures['parameters']:,} parameters, {figures['buffers']:,} numbers in buffers",
        "federated": f"{figures['federated']:,} numbers" + (f"; not sent: {stay}" if stay else ""),
        "bytes a round": f"{size(figures['down_bytes_per_round'])} down, {size(figures['up_bytes_per_round'])} up",
        "bytes left" if done else "bytes in all": size(figures["bytes"]),
        "server's memory": f"{size(figures['memory_bytes'])} for states and sums",
        "clients' memories": client_state_line(figures["memories"]),
        "one batch": f"{figures['batch_s'] * 1000:.1f} ms; a fit {figures['fit_s'] * 1000:.1f} ms more",
        "what is left"
        if done
        else "the whole run": f"about {format_duration(figures['seconds'])}, evaluations of {figures['evaluation_s']:.1f} s included",
        "will write": f"{FILES} into {run.folder}",
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def client_state_line(room: MemoryEstimate) -> str:
    """What clients' memories take; an empty string if they remember nothing."""
    each, ram, disk = map(size, (room.client, room.ram, room.disk))
    return f"{each} a client; at most {ram} of RAM, {disk} in checkpoints" if room.client else ""


def _told(figures: dict[str, Any]) -> str:
    least, most = figures["cohorts"]
    about = (
        f"{figures['cohort']:,.0f}" if least == most else f"{least:,} to {most:,}, {figures['cohort']:,.1f} on average,"
    )
    return about + (f" of {figures['asked']:,.0f} candidates" if figures["asked"] else "")


def _line(quantiles: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in quantiles.items())


def format_duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
