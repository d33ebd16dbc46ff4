"""Tables of the report as LaTeX, for the package booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedlit.core.text.escape import printable
from fedlit.reports.render.cells import ReportValues
from fedlit.reports.render.tables import ReportTable, make_tables

SIGNS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "-": "{-}",
}
"""LaTeX for the signs that mean something else there."""
MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def to_latex(result: ReportValues) -> str:
    """Return a `table` for each table of the report.

    The document needs `\\usepackage{booktabs}` and, for `\\textquotedbl`, `\\usepackage[T1]{fontenc}`.
    """
    head = ["% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}"]
    return "\n\n".join([*head, *(_table(table) for table in make_tables(result, with_ends=True))]) + "\n"


def _table(table: ReportTable) -> str:
    notes = "\\\\\n".join(map(escape_latex, table.notes))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _row(table.columns),
        r"\midrule",
        *map(_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *([r"\par\smallskip", rf"{{\footnotesize {notes}\par}}"] if notes else []),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def escape_latex(text: str) -> str:
    """Return LaTeX that prints a text.

    A hyphen before a digit is a minus."""
    parts = MINUS.split(" ".join(printable(text, keep="\n\t").split()))
    return "$-$".join("".join(SIGNS.get(sign, sign) for sign in part) for part in parts)
