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
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    **{sign: f"{{{sign}}}" for sign in "-[*"},  # hyphens join; at the beginning of a row [ is a length and * a form
}
"""LaTeX for the signs that mean something else there."""
HEAD = r"""% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}
% pdflatex prints other signs than those of Latin-1 as their numbers, lualatex and xelatex as the font has them
\DeclareRobustCommand\reportsign[2]{\ifdefined\Umathcode#1\else U+#2\fi}"""
LATIN_1 = 256
"""Number of signs that LaTeX prints with any engine."""
MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def to_latex(result: ReportValues) -> str:
    """Return a `table` for each table of the report.

    The document needs `\\usepackage{booktabs}` and, for `\\textquotedbl`, `\\usepackage[T1]{fontenc}`.
    """
    return "\n\n".join([HEAD, *(_table(table) for table in make_tables(result, with_ends=True))]) + "\n"


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
    return "$-$".join("".join(map(_escape_sign, part)) for part in parts).replace(",,", ",{,}")  # a low quote in T1


def _escape_sign(sign: str) -> str:
    return SIGNS.get(sign, sign) if ord(sign) < LATIN_1 else f"\\reportsign{{{sign}}}{{{ord(sign):04X}}}"
