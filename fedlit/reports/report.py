"""Report means over seeds with intervals, paired differences and learning curves.

Usage: `python -m fedlit.report PATH...`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from fedlit import __version__
from fedlit.core.errors import ConfigError, ConfigErrors, print_errors
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import escape_tracebacks, shell_command
from fedlit.reports.render.terminal import print_report
from fedlit.reports.report_files import PAGE, save_page, save_report
from fedlit.reports.result import Report, make_report
from fedlit.reports.runs import find_runs
from fedlit.reports.watch import watch_runs
from fedlit.runs.folder import is_run, require_files
from fedlit.runs.layout import MULTIRUN

WATCH_S = 10.0
"""Seconds between two checks of the watched runs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    The exit status is 2 if the command line has errors.
    """
    escape_tracebacks()
    options = _make_parser().parse_intermixed_args(arguments)
    command = shell_command(["python", "-m", "fedlit.report", *(arguments or sys.argv[1:])])
    console, files = PlainConsole(), list[str]()
    try:
        out = options.out or sweep_folder(options.path, options.watch is not None)
        if options.watch is not None:
            _watch(options, out, command, console)
        report = _make_report(options)
        if out is not None:
            files = save_report(report, out, command, options.latex, options.csv == "long")
    except ConfigErrors as error:
        print_errors(error.errors, "; nothing was reported")
        sys.exit(2)
    print_report(report.values, out, console, files)


def _make_parser() -> argparse.ArgumentParser:
    description = (
        "Compare runs and sweeps: means over seeds with intervals, differences seed by seed, and learning curves."
    )
    parser = argparse.ArgumentParser(prog="python -m fedlit.report", description=description)
    path_help = "folder of a run or a sweep, or a pattern such as 'runs/*'"
    parser.add_argument("path", type=Path, nargs="+", metavar="PATH", help=path_help)
    out_help = "folder of the report; by default the sweep's folder, if PATH is a sweep"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out_help)
    target_help = "also report the cost until the metric first reaches this value"
    parser.add_argument("--target", type=float, metavar="VALUE", help=target_help)
    parser.add_argument(
        "--baseline", metavar="KEY=VALUE", help="group with which others are compared, such as algorithm=fedavg"
    )
    metric_help = "metric of the tables; by default the monitored metric on the test set"
    parser.add_argument("--metric", metavar="NAME", help=metric_help)
    mode_help = "max if larger values of --metric are better, min if smaller ones are"
    parser.add_argument("--mode", choices=["max", "min"], help=mode_help)
    plot_help = "figure of the trade-off of two columns, such as comm/up_bytes:test/accuracy; can be repeated"
    parser.add_argument("--plot", metavar="X:Y", action="append", default=[], help=plot_help)
    parser.add_argument(
        "--latex", action="store_true", help="also write the tables as report.tex, for the package booktabs"
    )
    csv_help = "runs (default): a row for each run; long: also report-long.csv, a row for each run, round and metric"
    parser.add_argument("--csv", choices=["runs", "long"], default="runs", help=csv_help)
    watch_help = f"write report.html again when runs change, every SECONDS ({WATCH_S:g}), until Ctrl-C"
    parser.add_argument("--watch", metavar="SECONDS", type=_seconds, nargs="?", const=WATCH_S, help=watch_help)
    parser.add_argument("--version", action="version", version=f"fedlit {__version__}")
    return parser


def _seconds(text: str) -> float:
    """Return a number of seconds, at least 1."""
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("must be between 1 and 86400 seconds")
    return seconds


def _make_report(options: argparse.Namespace) -> Report:
    return make_report(options.path, options.baseline, options.target, options.metric, options.mode, options.plot)


def _watch(options: argparse.Namespace, out: Path | None, command: str, console: PlainConsole) -> None:
    """Write the page whenever runs change; return after Ctrl-C.

    Raises:
        ConfigErrors: if there is no folder for the page.
    """
    if out is None:
        problem = "needs a folder for report.html"
        raise ConfigErrors([ConfigError("--watch", "", problem, "name the folder of one sweep, or add --out FOLDER")])

    def write() -> None:
        save_page(_make_report(options), out, command, options.watch)

    console.print(Text(f"{out / PAGE} reloads itself every {options.watch:g} s; Ctrl-C ends it"), soft_wrap=True)
    watch_runs(options.path, write, lambda line: console.print(Text(line), soft_wrap=True), options.watch)


def write_report(
    paths: Sequence[Path], out: Path, baseline: str | None = None, target: float | None = None
) -> dict[str, Any]:
    """Write the files of a report: page, Markdown, CSV, JSON and figures.

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
    save_report(report, out, "")
    return dict(report.values)


def sweep_folder(paths: Sequence[Path], can_be_empty: bool = False) -> Path | None:
    """Return the folder of the sweep that the paths cover, or None.

    The folder is the only path, unless it is a run's folder, or the multirun folder of Hydra whose runs are all in the paths.
    A report on a part of a sweep must not replace the report on the sweep.

    Args:
        paths: folders of runs or sweeps.
        can_be_empty: True if the only path can be a folder that does not exist yet.

    Raises:
        ConfigErrors: with every path that leads to no run.
    """
    for path in paths:
        require_files(path, (), "PATH", "")
    if len(paths) == 1 and paths[0].is_dir() and not is_run(paths[0]):
        return paths[0]
    if can_be_empty and len(paths) == 1 and not paths[0].exists():
        return paths[0]
    parents = {path.parent for path in paths}
    if len(parents) != 1 or not (next(iter(parents)) / MULTIRUN).is_file():
        return None
    (sweep,) = parents
    runs, all_runs = ({folder.resolve() for folder in find_runs(part)} for part in (paths, [sweep]))
    return sweep if runs == all_runs else None
