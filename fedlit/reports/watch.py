"""Write the page again whenever runs change: `python -m fedlit.report --watch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from fedlit.core.errors import ConfigErrors
from fedlit.reports.runs import find_runs
from fedlit.runs.layout import FAILURE, JOURNAL, SUMMARY


def watch_runs(
    paths: Sequence[Path],
    write: Callable[[], None],
    report: Callable[[str], None],
    seconds: float,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Call `write` whenever a run below the paths has changed, until Ctrl-C.

    While there is no finished run, the reason is reported and the wait goes on.

    Args:
        paths: folders of runs or sweeps; they can be empty at first.
        write: writes the report.
        report: prints a line.
        seconds: seconds between two checks of the folders.
        wait: sleeps for some seconds.
    """
    known, last_line = None, ""
    with suppress(KeyboardInterrupt):
        while True:
            state = run_state(paths)
            if state != known:
                known = state
                try:
                    write()
                    line = f"{len(state)} runs, {sum(SUMMARY in files for _, files in state)} finished"
                except ConfigErrors as error:
                    line = f"waiting: {error.errors[0]}"
                if line != last_line:
                    report(line)
                last_line = line
            wait(seconds)


def run_state(paths: Sequence[Path]) -> tuple[tuple[Path, dict[str, tuple[int, int]]], ...]:
    """Return the sizes and times of each run's changing files.

    Times are in nanoseconds.
    """
    try:
        folders = find_runs(paths)
    except ConfigErrors:  # none yet
        return ()
    return tuple((folder, _file_state(folder)) for folder in folders)


def _file_state(folder: Path) -> dict[str, tuple[int, int]]:
    states = {}
    for name in (JOURNAL, SUMMARY, FAILURE):
        with suppress(OSError):  # not yet, or no longer
            stat = (folder / name).stat()
            states[name] = (stat.st_size, stat.st_mtime_ns)
    return states
