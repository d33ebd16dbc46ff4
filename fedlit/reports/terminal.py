"""The report on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.reports.tables import grids, listed

MOST_TOLD = 10
"""Runs that are left out, each with a line; report.md has all."""
MOST_WIDE = 30
"""Columns that a group's name may keep for itself."""


def show(found: Mapping[str, Any], out: Path | None, console: Console) -> None:
    """Prints the report's tables, what was left out, and where it is."""

    def say(text: str) -> None:
        console.print(Text(text), soft_wrap=False)

    seeds = sorted({seed for one in found["groups"] for seed in one["seeds"]})
    say(f"{len(found['runs'])} runs in {len(found['groups'])} groups, seeds {listed(seeds)}")
    for grid in grids(found, ends=False):
        table = Table(title=Text(grid.title, style="bold"), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        longest = max(len(part) for row in grid.rows for part in row[0].split() or [""])
        for at, name in enumerate(grid.columns):
            width = None if at else min(longest, MOST_WIDE)
            table.add_column(Text(name), justify="right" if at else "left", overflow="fold", min_width=width)
        for row in grid.rows:
            table.add_row(*map(Text, row))
        console.print(table)
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
