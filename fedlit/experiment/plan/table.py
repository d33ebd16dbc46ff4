"""The plan of a run as a table."""

from __future__ import annotations

from typing import Any

from rich.filesize import decimal
from rich.table import Table

from fedlit.core.text.escape import short_path
from fedlit.experiment.plan.client_states import MemoryEstimate
from fedlit.experiment.plan.privacy import privacy_rows
from fedlit.experiment.run import Run

FILES = "config.yaml, rounds.jsonl, summary.json, partition.json, checkpoints, files of the observers"


def plan_table(run: Run, figures: dict[str, Any]) -> Table:
    """The plan as a table of 80 columns."""
    table = Table(show_header=False, title="plan: nothing was trained", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    stay = ", ".join(figures["stay"][:4]) + (", ..." if len(figures["stay"]) > 4 else "")
    done = figures["done"]
    progress = f", {done:,} done, {max(0, figures['rounds'] - done):,} left" if done else ""
    seconds = (
        f"about {format_duration(figures['seconds'])}, of which an evaluation takes {figures['evaluation_s']:.1f} s"
    )
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
        **privacy_rows(figures["privacy"]),
        "secure sum": figures["secure_sum"],
        "one batch": f"{figures['batch_s'] * 1000:.1f} ms; each local training needs {figures['fit_s'] * 1000:.1f} ms more",
        "the rest" if done else "the whole run": seconds,
        "will write": f"{FILES} into {short_path(run.folder)}",
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
    text = f"{seconds:.0f}"
    return f"{text} second{'s' * (text != '1')}"
