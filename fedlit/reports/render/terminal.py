"""The report on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.reports.render.tables import ReportTable, headline, make_tables
from fedlit.reports.runs import MAX_LISTED_RUNS

MAX_LABEL_WIDTH = 30
"""Columns that a group's label keeps even if the other columns need more room."""

FILES = ("report.html", "report.md", "report.csv", "report.json")
"""Files of every report."""


def print_report(result: Mapping[str, Any], out: Path | None, console: Console, files: Sequence[str] = FILES) -> None:
    """Print the report's tables, the skipped runs, and the files' folder.

    Args:
        result: the report.
        out: folder of the files; None if no files were written.
        console: terminal to print on.
        files: names of the files besides the figures.
    """

    def print_line(text: str) -> None:
        console.print(Text(text), soft_wrap=False)

    print_line(headline(result))
    for table in make_tables(result, with_ends=False):
        console.print(_make_table(table, console.width))
        for note in table.notes:
            print_line(note)
        print_line("")
    if skipped := result["left_out"]:
        print_line(f"skipped runs: {len(skipped)}")
        for run in skipped[:MAX_LISTED_RUNS]:
            print_line(f"  {run['folder']}: {run['what']}: {run['why']}")
        if len(skipped) > MAX_LISTED_RUNS:
            print_line(f"  and {len(skipped) - MAX_LISTED_RUNS} more, listed in report.md")
    line = f"{out}: {', '.join([*files, 'figures'])}"
    console.print(Text(line if out else "no files were written: add --out FOLDER to write them"), soft_wrap=True)


def _make_table(table: ReportTable, width: int) -> Table:
    """Return a rich table that is at most `width` columns wide.

    The groups' labels are folded first, down to their longest word or MAX_LABEL_WIDTH columns. Rich alone would compute too
    small a width for them, and cut off the last column.
    """
    rich_table = Table(
        title=Text(table.title, style="bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    labels, *others = zip(table.columns, *table.rows, strict=True)
    least = min(max(len(word) for label in labels for word in label.split() or [""]), MAX_LABEL_WIDTH)
    room = width - 3 - sum(max(map(len, cells)) + 2 for cells in others)  # less edges, padding and separators
    rich_table.add_column(Text(labels[0]), overflow="fold", width=max(least, min(room, max(map(len, labels)))))
    for name in table.columns[1:]:
        rich_table.add_column(Text(name), justify="right", overflow="fold")
    for row in table.rows:
        rich_table.add_row(*map(Text, row))
    return rich_table
