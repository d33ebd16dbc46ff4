"""Report means over seeds with intervals, paired differences and learning curves.

Usage: `python -m fedlit.report PATH...`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedlit import __version__
from fedlit.core.errors import ConfigError, ConfigErrors, print_errors
from fedlit.core.files import to_json, write_atomic
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import escape_tracebacks, shell_command
from fedlit.reports.page.page import to_page
from fedlit.reports.render.markdown import to_markdown
from fedlit.reports.render.tables import runs_to_csv
from fedlit.reports.render.terminal import print_report
from fedlit.reports.result import Report, make_report
from fedlit.reports.runs import find_runs
from fedlit.runs.folder import is_run
from fedlit.runs.layout import MULTIRUN


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    The exit status is 2 if the command line has errors.
    """
    escape_tracebacks()
    parser = argparse.ArgumentParser(prog="python -m fedlit.report", description=__doc__)
    parser.add_argument("path", type=Path, nargs="+", help="folder of a run or of a sweep, or a pattern of folders")
    parser.add_argument(
        "--out", type=Path, help="folder for the report; default: the sweep's folder, if PATH is a sweep"
    )
    parser.add_argument("--target", type=float, help="report the cost until the metric first reached this value")
    parser.add_argument("--baseline", metavar="KEY=VALUE", help="report differences from it, e.g. algorithm=fedavg")
    parser.add_argument("--metric", help="default: the counterpart of the monitored metric on the test set")
    parser.add_argument("--mode", choices=["max", "min"], help="max if larger values of --metric are better, or min")
    parser.add_argument(
        "--plot",
        metavar="X:Y",
        action="append",
        default=[],
        help="figure of the trade-off of two columns, e.g. comm/up_bytes:test/accuracy; can be given again",
    )
    parser.add_argument("--version", action="version", version=f"fedlit {__version__}")
    options = parser.parse_intermixed_args(arguments)
    try:
        out = options.out or sweep_folder(options.path)
        report = make_report(options.path, options.baseline, options.target, options.metric, options.mode, options.plot)
        if out is not None:
            _save(report, out, shell_command(["python", "-m", "fedlit.report", *(arguments or sys.argv[1:])]))
    except ConfigErrors as error:
        print_errors(error.errors, "; nothing was reported")
        sys.exit(2)
    print_report(report.values, out, PlainConsole())


def write_report(
    paths: Sequence[Path], out: Path, baseline: str | None = None, target: float | None = None
) -> dict[str, Any]:
    """Write the files of a report: report.md, report.csv, report.json and figures.

    Args:
        paths: folders of runs or sweeps.
        out: folder for the report; created if it does not exist.
        baseline: `KEY=VALUE` pairs; None for the first value of the first setting that differs.
        target: value of the metric, or None.

    Returns:
        The report as JSON values, see `make_result`.

    Raises:
        ConfigErrors: if there is no finished run, the baseline or target is invalid, or `out` is not writable.
    """
    report = make_report(paths, baseline, target)
    _save(report, out, "")
    return dict(report.values)


def sweep_folder(paths: Sequence[Path]) -> Path | None:
    """Return the folder of the sweep that the paths cover, or None.

    The folder is the only path, unless it is a run's folder, or the multirun folder of Hydra whose runs are all in the paths.
    A report on a part of a sweep must not replace the report on the sweep.

    Raises:
        ConfigErrors: with every path that leads to no run.
    """
    if len(paths) == 1 and paths[0].is_dir() and not is_run(paths[0]):
        return paths[0]
    parents = {path.parent for path in paths}
    if len(parents) != 1 or not (next(iter(parents)) / MULTIRUN).is_file():
        return None
    (sweep,) = parents
    runs, all_runs = ({folder.resolve() for folder in find_runs(part)} for part in (paths, [sweep]))
    return sweep if runs == all_runs else None


def _save(report: Report, out: Path, command: str) -> None:
    from fedlit.reports.render.figures import save_figures  # matplotlib takes half a second: errors are printed before

    result = report.values
    try:
        out.mkdir(parents=True, exist_ok=True)
        pictures = [name for name in save_figures(result, out) if name.endswith(".png")]
        write_atomic(out / "report.csv", runs_to_csv(result).encode())
        write_atomic(out / "report.json", (to_json(result, indent=2) + "\n").encode())
        write_atomic(out / "report.md", to_markdown(result, command, pictures).encode())
        write_atomic(out / "report.html", to_page(report, command).encode())
    except OSError as error:
        problem = f"is not writable: {os.strerror(error.errno) if error.errno else error}"
        raise ConfigErrors([ConfigError("--out", out, problem, "choose another folder with --out FOLDER")]) from error
