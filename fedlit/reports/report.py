"""`python -m fedlit.report PATH...`: means over seeds with intervals, paired differences, learning curves."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedlit.core.errors import ConfigError, ConfigErrors, print_errors
from fedlit.core.files import to_json, write_atomic
from fedlit.reports.render.tables import markdown, rows_of_runs
from fedlit.reports.render.terminal import print_report
from fedlit.reports.result import make_result
from fedlit.reports.runs import find_runs, is_run


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exit status 2 for a mistake in what was typed."""
    parser = argparse.ArgumentParser(prog="python -m fedlit.report", description=__doc__)
    parser.add_argument("path", type=Path, nargs="+", help="folder of a run or of a sweep, or a pattern of them")
    parser.add_argument("--out", type=Path, help="folder to write into; default: that of the sweep, if PATH is one")
    parser.add_argument("--target", type=float, help="what it took until the metric was there")
    parser.add_argument("--baseline", metavar="KEY=VALUE", help="what differences are from, such as algorithm=fedavg")
    parser.add_argument("--metric", help="default: the monitored one's on the test set")
    parser.add_argument("--mode", choices=["max", "min"], help="which values of --metric are the better ones")
    typed = parser.parse_args(arguments)
    try:
        out = typed.out or sweep_of(typed.path)
        found = make_result(typed.path, typed.baseline, typed.target, typed.metric, typed.mode)
        if out is not None:
            _save(found, out, shlex.join(["python", "-m", "fedlit.report", *(arguments or sys.argv[1:])]))
    except ConfigErrors as mistakes:
        print_errors(mistakes.errors, "; nothing was reported")
        sys.exit(2)
    print_report(found, out, Console())


def write_report(
    paths: Sequence[Path], out: Path, baseline: str | None = None, target: float | None = None
) -> dict[str, Any]:
    """The report of the runs at and below the paths, written as report.md, report.csv, report.json and figures.

    Args:
        paths: folders of runs or sweeps.
        out: where to; made if it is not there.
        baseline: what differences are from, as `KEY=VALUE`; None for the first value of the first setting that differs.
        target: a value of the metric.

    Raises:
        Mistakes: if there is no finished run, or the baseline or the target cannot be had.
    """
    found = make_result(paths, baseline, target)
    _save(found, out, "")
    return found


def sweep_of(paths: Sequence[Path]) -> Path | None:
    """The folder that a report of the paths belongs into: the only one, unless it is a run's, or that of Hydra's multirun
    whose runs they all are; None where it is neither. A report of a part would take the place of the sweep's own.

    Raises:
        Mistakes: with every path at which there is no run.
    """
    if len(paths) == 1 and paths[0].is_dir() and not is_run(paths[0]):
        return paths[0]
    above = {path.parent for path in paths}
    if len(above) != 1 or not (next(iter(above)) / "multirun.yaml").is_file():
        return None
    (sweep,) = above
    here, all_of_it = ({folder.resolve() for folder in find_runs(part)} for part in (paths, [sweep]))
    return sweep if here == all_of_it else None


def _save(found: Mapping[str, Any], out: Path, command: str) -> None:
    from fedlit.reports.render.figures import (
        save_figures,
    )  # here: matplotlib takes half a second, and a mistake is told at once

    try:
        out.mkdir(parents=True, exist_ok=True)
        figures = save_figures(found, out)
        pictures = [name for name in figures if name.endswith(".png")]
        write_atomic(out / "report.csv", rows_of_runs(found).encode())
        write_atomic(out / "report.json", (to_json(found, indent=2) + "\n").encode())
        write_atomic(out / "report.md", markdown(found, command, pictures).encode())
    except OSError as error:
        why = f"cannot be written: {os.strerror(error.errno) if error.errno else error}"
        raise ConfigErrors([ConfigError("--out", out, why, "--out FOLDER puts the report elsewhere")]) from error
