"""The terminal: a progress bar, and a table at the end.

If the output is not a terminal, one line a round replaces the progress bar. A job of a sweep has one line instead of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import shell_command, short_path
from fedlit.core.text.numbers import format_number
from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.run import Run
from fedlit.experiment.summary import evaluation_metrics, protections
from fedlit.runs.metric_names import counterpart
from fedlit.runs.record import RoundRecord


class Terminal(Observer):
    """Prints the progress of a run and a table at its end.

    Args:
        console: console to print on; None for the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or PlainConsole()

    def start(self, run: Run) -> None:
        """Start the progress bar."""
        self._run, self._monitor_text = run, ""
        self._job = f"job {run.sweep_job.number}  " if run.sweep_job else ""
        self._progress = Progress(
            TextColumn(f"{self._job}round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=run.sweep_job is not None,
        )
        self._task = self._progress.add_task(
            "", total=run.federation.schedule.rounds, completed=len(run.finished_rounds)
        )
        self._progress.start()

    def round(self, record: RoundRecord) -> None:
        """Advance the bar, or print a line."""
        line = self._line(record)
        if self._console.is_terminal:
            self._progress.update(self._task, advance=1, description=line)
        else:
            place = f"{self._job}round {record.number}/{self._run.federation.schedule.rounds}"
            self._console.print(f"{place}  {line}  {record.metrics['time/round_s']:.1f} s", soft_wrap=True)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Print the table, or the line of a sweep's job."""
        self._progress.stop()
        if self._run.sweep_job is not None:
            self._console.print(f"{self._job}{result_line(self._run, summary)}", soft_wrap=True, markup=False)
            return
        self._console.print(summary_table(self._run, summary))
        command = shell_command(["tensorboard", "--logdir", short_path(self._run.folder)])
        self._console.print(command, soft_wrap=True, markup=False, highlight=False)

    def close(self) -> None:
        """Stop the progress bar."""
        self._progress.stop()

    def _line(self, record: RoundRecord) -> str:
        """Return the round's clients and the newest value of the monitored metric."""
        monitor = self._run.monitored
        if monitor and self._run.federation.monitor.name is None:  # without a validation split: on the test split
            monitor = counterpart(monitor, "test")
        if monitor is not None and monitor in record.metrics:
            self._monitor_text = f"{monitor} {format_number(record.metrics[monitor])}"
        clients = f"{int(record.metrics['clients/trained'])} of {len(record.cohort)} clients"
        return f"{clients}  {self._monitor_text}" + ("  LOST" if record.lost else "")


def summary_table(run: Run, summary: Mapping[str, Any]) -> Table:
    """Return a table of the run: model, metrics, time, bytes and folder."""
    table = Table(show_header=False, title="fedlit", title_justify="left", expand=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    best, last, monitor = summary["best"], summary["last"], run.federation.monitor.name
    table.add_row(
        "trained",
        f"{_choice(run, 'model')} ({summary['parameters']:,} parameters) on {run.data.name} by {_choice(run, 'algorithm')}",
    )
    table.add_row("clients", f"{len(run.federation.registry):,}, {len(last['cohort']):,} in the last round's cohort")
    table.add_row(
        "rounds",
        f"{summary['rounds']}, {summary['lost_rounds']} of them lost"
        if summary["lost_rounds"]
        else f"{summary['rounds']}",
    )
    table.add_row(_best_title(monitor, best), f"round {best['round']}: {metrics_line(best['metrics'])}")
    if _has_best(monitor, best):
        table.add_row("last round", metrics_line(last["metrics"]))
    table.add_row("time", f"{summary['seconds']:.1f} s")
    down, up = (decimal(int(summary[key])) for key in ("down_bytes", "up_bytes"))
    ratio = summary.get("compression_ratio", 1.0)
    smaller = f", {ratio:.1f} times smaller than float32" if ratio >= 1.05 else ""
    table.add_row("sent", f"{down} to clients, {up} back{smaller}")
    for statement in protections(run.federation):
        table.add_row("protected", statement)
    table.add_row("folder", str(short_path(run.folder)))
    return table


def _has_best(monitor: str | None, best: Mapping[str, Any]) -> bool:
    """Return True if a validation metric chose the summary's best round.

    The monitored metric was finite in that round. Otherwise the summary has the last round in its place.
    """
    return monitor is not None and math.isfinite(best["metrics"].get(monitor, math.nan))


def _best_title(monitor: str | None, best: Mapping[str, Any]) -> str:
    if monitor is None:
        return "last round, nothing held out"
    return f"best round by {monitor}" if _has_best(monitor, best) else f"last round, {monitor} was never finite"


def _choice(run: Run, group: str) -> str:
    """Return the choice in a group, or the user's own class."""
    choice = run.names.get(group, group)
    return str(run.config[group]["_target_"]).rpartition(".")[2] if choice == "custom" else choice


def result_line(run: Run, summary: Mapping[str, Any]) -> str:
    """Return the monitored metric at the best round, and the time."""
    best, monitor, name = summary["best"], run.federation.monitor.name, run.monitored
    names = [*dict.fromkeys((name, counterpart(name, "test"), counterpart(name, "own")))] if name else []
    metrics = {name: best["metrics"][name] for name in names if name in best["metrics"]}
    lost = f", {summary['lost_rounds']} of {summary['rounds']} rounds lost" if summary["lost_rounds"] else ""
    place = f"{'best round' if _has_best(monitor, best) else 'last round'} {best['round']}"
    return f"{place}: {metrics_line(metrics)}{lost}, {summary['seconds']:.1f} s"


def metrics_line(metrics: Mapping[str, float]) -> str:
    """Return the metrics of evaluations in one line."""
    texts = (f"{name} {format_number(value)}" for name, value in evaluation_metrics(metrics).items())
    return ", ".join(texts) or "not evaluated"
