"""The files of a report, in its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.files import to_json, write_atomic
from fedlit.reports.page.page import to_page
from fedlit.reports.render.latex import to_latex
from fedlit.reports.render.long_csv import rounds_to_csv
from fedlit.reports.render.markdown import to_markdown
from fedlit.reports.render.tables import runs_to_csv
from fedlit.reports.result import Report

PAGE = "report.html"


def save_report(
    report: Report, out: Path, command: str, has_latex: bool = False, has_rounds: bool = False
) -> list[str]:
    """Write the files of a report.

    Args:
        report: the report.
        out: folder for the files; created if it does not exist.
        command: command line that made the report, or an empty string.
        has_latex: True to write report.tex too.
        has_rounds: True to write report-long.csv too, with a row for each run, round and metric.

    Returns:
        The names of the files, without those of the figures.

    Raises:
        ConfigErrors: if the folder is not writable.
    """
    from fedlit.reports.render.figures import save_figures  # matplotlib takes half a second: errors are printed before

    with _writing(out):
        pictures = [name for name in save_figures(report.values, out) if name.endswith(".png")]
        files = {
            PAGE: to_page(report, command),
            "report.md": to_markdown(report.values, command, pictures),
            "report.csv": runs_to_csv(report.values),
            "report.json": to_json(report.values, indent=2) + "\n",
            **({"report-long.csv": rounds_to_csv(report)} if has_rounds else {}),
            **({"report.tex": to_latex(report.values)} if has_latex else {}),
        }
        for name, text in files.items():
            write_atomic(out / name, text.encode())
    return [*files]


def save_page(report: Report, out: Path, command: str, refresh_s: float) -> None:
    """Write report.html alone, as a page that reloads itself.

    Args:
        report: the report.
        out: folder for the file; created if it does not exist.
        command: command line that made the report.
        refresh_s: seconds between two reloads.

    Raises:
        ConfigErrors: if the folder is not writable.
    """
    with _writing(out):
        write_atomic(out / PAGE, to_page(report, command, refresh_s).encode())


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        problem = f"is not writable: {os.strerror(error.errno) if error.errno else error}"
        raise ConfigErrors([ConfigError("--out", out, problem, "choose another folder with --out FOLDER")]) from error
