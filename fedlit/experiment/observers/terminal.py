"""The terminal: a progress bar, or a line a round where there is none, and a last table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedlit.experiment.run import Run
from fedlit.runs.record import RoundRecord


class Terminal:
    """Shows how the run goes.

    Args:
        console: where to; None is the standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()

    def start(self, run: Run) -> None:
        self._run, self._shown = run, ""
        self._progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            "", total=run.federation.schedule.rounds, completed=len(run.finished_rounds)
        )
        self._progress.start()

    def round(self, record: RoundRecord) -> None:
        line = self._line(record)
        if self._console.is_terminal:
            self._progress.update(self._task, advance=1, description=line)
        else:
            seconds = record.metrics["time/round_s"]
            self._console.print(
                f"round {record.number}/{self._run.federation.schedule.rounds}  {line}  {seconds:.1f} s", soft_wrap=True
            )

    def end(self, summary: Mapping[str, Any]) -> None:
        self._progress.stop()
        self._console.print(summary_table(self._run, summary))
        self._console.print(
            f"tensorboard --logdir {shlex.quote(str(self._run.folder))}", soft_wrap=True, highlight=False
        )

    def close(self) -> None:
        self._progress.stop()

    def _line(self, record: RoundRecord) -> str:
        monitor = self._run.federation.monitor.name or str(self._run.config["monitor"]["name"]).replace(
            "val", "test", 1
        )
        if monitor in record.metrics:
            self._shown = f"{monitor} {record.metrics[monitor]:.4f}"
        clients = f"{int(record.metrics['clients/trained'])} of {len(record.cohort)} clients"
        return f"{clients}  {self._shown}" + ("  LOST" if record.lost else "")


def summary_table(run: Run, summary: Mapping[str, Any]) -> Table:
    """What was trained, how well, how long it took, what was sent, where it lies."""
    table = Table(show_header=False, title="fedlit", title_justify="left", expand=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    best, last, judged = summary["best"], summary["last"], run.federation.monitor.name
    table.add_row(
        "trained",
        f"{run.names.get('model', 'model')} ({summary['parameters']:,} parameters) on {run.data.name} by "
        f"{run.names.get('algorithm', 'algorithm')}",
    )
    table.add_row("clients", f"{len(run.federation.population):,}, {len(last['cohort']):,} in the last round's cohort")
    table.add_row(
        "rounds",
        f"{summary['rounds']}, {summary['lost_rounds']} of them lost"
        if summary["lost_rounds"]
        else f"{summary['rounds']}",
    )
    title = f"best round by {judged}" if judged else "last round, nothing held out"
    table.add_row(title, f"round {best['round']}: {metrics_line(best['metrics'])}")
    if judged:
        table.add_row("last round", metrics_line(last["metrics"]))
    table.add_row("time", f"{summary['seconds']:.1f} s")
    table.add_row("sent", f"{size(summary['down_bytes'])} to clients, {size(summary['up_bytes'])} back")
    table.add_row("folder", str(run.folder))
    return table


def metrics_line(metrics: Mapping[str, float]) -> str:
    """The evaluation's metrics in one line."""
    shown = {name: value for name, value in metrics.items() if name.startswith(("val", "test"))}
    return ", ".join(f"{name} {value:.4f}" for name, value in shown.items()) or "not evaluated"


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
