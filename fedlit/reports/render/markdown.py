"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from fedlit.core.text.escape import printable
from fedlit.reports.render.cells import ReportValues, pluralize
from fedlit.reports.render.tables import headline, make_tables


def to_markdown(result: ReportValues, command: str, figures: Sequence[str]) -> str:
    """Return the whole report as Markdown.

    Args:
        result: the report.
        command: command line that made the report, or an empty string.
        figures: file names of the figures.
    """
    lines = ["# Report", "", f"{headline(result)}; {pluralize(len(result['left_out']), 'skipped run')}."]
    lines += [f"Created by `{command}`."] if command else []
    for table in make_tables(result, with_ends=True):
        lines += ["", f"## {_escape(table.title)}", "", _row(table.columns)]
        lines += [_row(["---", *("---:" for _ in table.columns[1:])]), *(_row(row) for row in table.rows)]
        lines += [part for note in table.notes for part in ("", _escape(note))]
    lines += [part for name in figures for part in ("", f"![{name.rpartition('.')[0]}]({name})")]
    if result["left_out"]:
        lines += ["", "## skipped runs", ""]
        lines += [f"- {_escape(run['folder'])}: {run['what']}: {_escape(run['why'])}" for run in result["left_out"]]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |"


def _escape(text: str) -> str:
    """Escape Markdown: a run's files can hold any text."""
    text = printable(text, keep="\n\t")
    for sign in ("\\", "`", "*", "_", "|", "<", "]("):
        text = text.replace(sign, f"\\{sign}" if len(sign) == 1 else "]\\(")
    return " ".join(text.split())
