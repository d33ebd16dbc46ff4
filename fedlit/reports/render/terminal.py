"""The report on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.reports.render.tables import ReportTable, headline, make_tables

MOST_TOLD = 10
"""Runs that are left out, each with a line; report.md has all."""
MOST_WIDE = 30
"""Columns that a group's name may keep for itself."""


def print_report(found: Mapping[str, Any], out: Path | None, console: Console) -> None:
    """Prints the report's tables, what was left out, and where it is."""

    def say(text: str) -> None:
        console.print(Text(text), soft_wrap=False)

    say(headline(found))
    for grid in make_tables(found, ends=False):
        console.print(_table(grid, console.width))
        for note in grid.notes:
            say(note)
        say("")
    if found["left_out"]:
        say(f"left out: {len(found['left_out'])}")
        for one in found["left_out"][:MOST_TOLD]:
            say(f"  {one['folder']}: {one['what']}: {one['why']}")
        if len(found["left_out"]) > MOST_TOLD:
            say(f"  and {len(found['left_out']) - MOST_TOLD} more, which report.md lists")
    where = (
        f"{out}: report.md, report.csv, report.json, figures" if out else "nothing was written: --out FOLDER does that"
    )
    console.print(Text(where), soft_wrap=True)


def _table(grid: ReportTable, width: int) -> Table:
    """The table no wider than that. The groups' names are folded first, as far as their longest word or MOST_WIDE columns; were
    that left to rich, it would take them for narrower than they are, and cut the last column off."""
    table = Table(title=Text(grid.title, style="bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names, *others = zip(grid.columns, *grid.rows, strict=True)
    least = min(max(len(word) for name in names for word in name.split() or [""]), MOST_WIDE)
    room = width - 3 - sum(max(map(len, cells)) + 2 for cells in others)  # less edges, padding and separators
    table.add_column(Text(names[0]), overflow="fold", width=max(least, min(room, max(map(len, names)))))
    for name in grid.columns[1:]:
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table
