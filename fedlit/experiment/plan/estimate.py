"""The plan of a run before round 1.

The plan states sizes, bytes and seconds, with one batch measured.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from rich.filesize import decimal
from rich.table import Table

from fedlit.core.model import Model
from fedlit.core.tensors import Layout
from fedlit.experiment.plan.client_states import (
    MemoryEstimate,
    client_state_nbytes,
    estimate_client_state,
    median_client,
)
from fedlit.experiment.run import Run
from fedlit.server.evaluation import Evaluations
from fedlit.server.sampling.cohort import LOSS_REPLY_BYTES, draw_cohort
from fedlit.server.sampling.sampler import ClientPool

FILES = "config.yaml, rounds.jsonl, summary.json, partition.json, checkpoints, files of the observers"

MAX_SAMPLED_ROUNDS = 100
"""Number of rounds whose cohorts are drawn to estimate their size."""


def estimate_run(run: Run) -> dict[str, Any]:
    """Estimate a run, or the rest of a run that is resumed.

    It trains some batches of a client of median size to measure the time of one; nothing of it is kept.

    Returns:
        `clients`, `samples_per_client` (quantiles), `cohort`, `sampled` and `asked` (for their losses), which are means a
        round, `cohorts` (the smallest and the largest), `rounds`, `done` (rounds), `steps_per_client` (quantiles),
        `parameters`, `buffers`, `federated`, `stay`, `up_bytes_per_round`, `down_bytes_per_round`, `memory_bytes` (of the
        server's sums and states), `client_states` (a `MemoryEstimate`), `batch_s`, `fit_s` (beyond its batches),
        `evaluation_s`; for the remaining rounds the expected `steps`, `bytes`, `seconds`.
    """
    federation, schedule, registry = run.federation, run.federation.schedule, run.federation.registry
    cohorts = _estimate_cohorts(run)
    cohort, sampled, asked = cohorts["cohort"], cohorts["sampled"], cohorts["asked"]
    per_client = federation.planned_steps(registry.sizes)
    batch_s, fit_s, layout = _measure_fit(run)
    ask_s = _measure_loss_seconds(run) if asked else 0.0
    state = federation.initial_state()
    down_nbytes = federation.down_nbytes(state)
    up = federation.channel.nbytes(layout) * cohort + LOSS_REPLY_BYTES * asked
    down = down_nbytes * max(sampled, asked)
    ids = registry.clients_to_evaluate(range(round(sampled)))
    own = federation.evaluations.make_jobs(0, (), registry.num_client_tests, ids, 0)
    evaluation_s = _measure_evaluation_seconds(run) if federation.splits else 0.0
    done = len(run.finished_rounds)
    rounds, evaluated = max(0, schedule.rounds - done), sum(map(schedule.is_evaluated, range(done, schedule.rounds)))
    expected = float(per_client.mean()) * cohort * rounds
    return {
        "clients": len(registry),
        "samples_per_client": _quantiles(registry.sizes),
        **cohorts,
        "rounds": schedule.rounds,
        "done": done,
        "steps_per_client": _quantiles(per_client),
        "steps": expected,
        **_model_figures(federation.initial, {name for _, name, _ in layout.entries}),
        "up_bytes_per_round": up,
        "down_bytes_per_round": down,
        "bytes": (up + down) * rounds,
        "memory_bytes": 8 * layout.size * (2 + math.ceil(math.log2(max(2, cohort)))) + 2 * down_nbytes,
        "client_states": estimate_client_state(run, client_state_nbytes(run)),
        "batch_s": batch_s,
        "fit_s": fit_s,
        "evaluation_s": evaluation_s,
        "seconds": expected * batch_s
        + rounds * cohort * fit_s
        + rounds * asked * ask_s
        + evaluated * evaluation_s
        + len(own) * evaluated * fit_s,
    }


def _estimate_cohorts(run: Run) -> dict[str, Any]:
    """Draw the first rounds' cohorts, with losses of 0.

    Returns:
        `sampled`, `asked` (for their losses) and `cohort` (clients that the server waits for) as means; `cohorts`, the
        smallest and the largest `cohort`.
    """
    federation, counts = run.federation, []
    schedule, sizes = federation.schedule, federation.registry.sizes
    for number in range(min(schedule.rounds, MAX_SAMPLED_ROUNDS)):
        asked: set[int] = set()

        def losses(clients: np.ndarray, asked: set[int] = asked) -> np.ndarray:
            asked.update(clients.tolist())
            return np.zeros(len(clients))

        cohort = draw_cohort(federation.sampler, ClientPool(sizes, number, federation.seed, losses))
        fastest = min(schedule.cohort_size(len(sizes)), len(cohort)) if schedule.over_select > 1 else len(cohort)
        counts.append((fastest, len(cohort), len(asked)))
    array = np.array(counts)
    means = dict(zip(("cohort", "sampled", "asked"), array.mean(axis=0).tolist(), strict=True))
    return {**means, "cohorts": [int(array[:, 0].min()), int(array[:, 0].max())]}


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


def _measure_fit(run: Run) -> tuple[float, float, Layout]:
    """Measure the seconds of a fit and the layout of an update.

    Returns:
        The seconds of a batch, those of a fit beyond its batches, and the layout of an update.
    """
    federation, client = run.federation, median_client(run.federation.registry.sizes)
    layout, seconds = Layout(()), {}
    for steps in (1, 1, 9, 1, 9):  # the first warms up
        begin = time.perf_counter()
        layout = Layout.of(federation.dry_run(client, steps=steps)[1].groups)
        seconds[steps] = min(seconds.get(steps, math.inf), time.perf_counter() - begin)
    batch = max(0.0, (seconds[9] - seconds[1]) / 8)
    return batch, max(0.0, seconds[1] - batch), layout


def _measure_loss_seconds(run: Run) -> float:
    """Seconds of measuring the loss of a client of median size."""
    federation = run.federation
    local = federation.worker.local_trainer(0, median_client(federation.registry.sizes), {})
    begin = time.perf_counter()
    local.loss(federation.algorithm.model(federation.initial_state().shared))
    return time.perf_counter() - begin


def _measure_evaluation_seconds(run: Run) -> float:
    """Seconds of evaluating each split once.

    An estimate from one batch would miss the work at the end.
    """
    federation = run.federation
    state = federation.initial_state()
    begin = time.perf_counter()
    for job in Evaluations().make_jobs(0, federation.splits, 0, (), 0):
        federation.worker(job, state)
    return time.perf_counter() - begin


def plan_table(run: Run, figures: dict[str, Any]) -> Table:
    """The plan as a table of 80 columns."""
    table = Table(show_header=False, title="plan: nothing was trained", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    stay = ", ".join(figures["stay"][:4]) + (", ..." if len(figures["stay"]) > 4 else "")
    done = figures["done"]
    progress = f", {done:,} done, {max(0, figures['rounds'] - done):,} left" if done else ""
    seconds = f"about {format_duration(figures['seconds'])}, with evaluations of {figures['evaluation_s']:.1f} s"
    steps = f"{_line(figures['steps_per_client'])}; about {figures['steps']:,.0f} {'left' if done else 'in all'}"
    rows = {
        "clients": f"{figures['clients']:,}, {_cohort_line(figures)} in a round, {figures['rounds']:,} rounds{progress}",
        "examples a client": _line(figures["samples_per_client"]),
        "steps a client": steps,
        "model": f"{figures['parameters']:,} parameters, {figures['buffers']:,} numbers in buffers",
        "federated": f"{figures['federated']:,} numbers" + (f"; not sent: {stay}" if stay else ""),
        "bytes a round": f"{_size(figures['down_bytes_per_round'])} down, {_size(figures['up_bytes_per_round'])} up",
        "bytes left" if done else "bytes in all": _size(figures["bytes"]),
        "server's memory": f"{_size(figures['memory_bytes'])} for states and sums",
        "client states": client_state_line(figures["client_states"]),
        "one batch": f"{figures['batch_s'] * 1000:.1f} ms; a fit {figures['fit_s'] * 1000:.1f} ms more",
        "the rest" if done else "the whole run": seconds,
        "will write": f"{FILES} into {run.folder}",
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def client_state_line(estimate: MemoryEstimate) -> str:
    """The sizes of client states; empty if clients have no state."""
    each, ram, disk = map(_size, (estimate.client, estimate.ram, estimate.disk))
    return f"{each} a client; at most {ram} of RAM, {disk} in checkpoints" if estimate.client else ""


def _size(nbytes: float) -> str:
    return decimal(int(nbytes))


def _cohort_line(figures: dict[str, Any]) -> str:
    least, most = figures["cohorts"]
    about = (
        f"{figures['cohort']:,.0f}" if least == most else f"{least:,} to {most:,}, {figures['cohort']:,.1f} on average,"
    )
    return about + (f" of {figures['asked']:,.0f} candidates" if figures["asked"] else "")


def _line(quantiles: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in quantiles.items())


def format_duration(seconds: float) -> str:
    """Seconds as text in a readable unit."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
