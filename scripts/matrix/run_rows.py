"""Faults of a run of the command line: its folder, a second process, a changed configuration."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedlit.server.checkpoint.disk import DiskCheckpointer
from matrix.commands import (
    ALLOW,
    OVERRIDES,
    cli_command,
    cli_run,
    expect_exit,
    expect_resume,
    reference_cli_run,
    split,
)
from matrix.forks import End, run_in_fork, signals_in_fit
from matrix.lab import Rows, expect, expect_same, read_run

ROWS = Rows()


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[bool]:
    """Mount a small file system at a folder; yield False if this is not allowed."""
    folder.mkdir()
    is_mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode
        == 0
    )
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@ROWS("ENOSPC on a small tmpfs", "exit 1 with the reason; with space, same bits", slow=True)
def no_space(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=1m") as is_mounted:
        for pages in (0, 3, None):
            here = folder / "disk" / f"run-{pages}"
            end = run_in_fork(lambda here=here, pages=pages: _run_until_full(here, pages, is_mounted))
            (folder / "disk" / "filler").unlink(missing_ok=True)
            where = f"{pages} pages left"
            expect(end.status == 1, f"{where}: ended with status {end.status}: {end.output}")
            expect("cannot be written any more: No space left" in end.output, f"{where}: printed {end.output}")
            expect("Traceback" not in end.output, f"{where}: {end.output}")
            again = cli_run(here, resume=True)
            if pages == 0:
                (command,) = re.findall(r"^  (.*resume=.*)$", end.output, re.MULTILINE)
                again = cli_command(split(command)[1][-1], **ALLOW)
            expect_exit(0, again)
            expect_same(read_run(here), reference_cli_run(), where)
    return "in a checkpoint and after it" if is_mounted else "simulated: no tmpfs may be mounted here"


def _run_until_full(folder: Path, pages: int | None, is_mounted: bool) -> None:
    """Run with a disk that fills up in round 3.

    Args:
        folder: folder of the run.
        pages: free pages of the disk when the third checkpoint is written; None for a disk that is full afterwards.
        is_mounted: the folder is on a disk of its own; otherwise the error is simulated.
    """
    original = DiskCheckpointer.commit

    def commit(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
        if state.round == 3 and not is_mounted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if state.round == 3 and pages is not None:
            _fill(folder.parent / "filler", pages)
        original(self, state, *rest)
        if state.round == 3 and pages is None:
            _fill(folder.parent / "filler", 0)

    with patch.object(DiskCheckpointer, "commit", commit):
        (cli_command(*OVERRIDES, f"hydra.run.dir={folder}") if pages == 0 else cli_run(folder))()


def _fill(path: Path, pages: int) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - 4096 * pages))


@ROWS("a read-only run folder", "exit 2 before round 1", slow=True)
def read_only(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=4m") as is_mounted:
        here = folder / "disk" / "run"
        expect_exit(143, lambda: _interrupted_run(here))
        (folder / "file").touch()
        if is_mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(folder / "disk")], check=True)
        targets = [here, folder / "disk" / "new"] if is_mounted else [folder / "file" / "run"]
        for target in targets:
            end = expect_exit(
                2, cli_command(f"resume={target}" if target == here else f"hydra.run.dir={target}", **ALLOW)
            )
            expect(f"{target}" in end.output and "cannot be written" in end.output, f"printed {end.output}")
        if is_mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(folder / "disk")], check=True)
            expect_resume(here, 2)
    return "new and resumed" if is_mounted else "below a file: no tmpfs may be mounted here"


def _interrupted_run(folder: Path) -> None:
    with signals_in_fit(3, 1, signal.SIGTERM):
        cli_run(folder)()


@ROWS("two processes on one run folder", "the second one refuses, the first is unharmed", slow=True)
def two(folder: Path) -> str:
    ends: list[End] = []

    def task() -> None:
        from fedlit.experiment import runner

        original = runner.build_run

        def build(*args: Any) -> Any:  # the first process has the lock already
            ends.append(run_in_fork(cli_command(*OVERRIDES, f"hydra.run.dir={folder / 'run'}")))
            run = original(*args)
            expect(ends[0].status == 2, f"ended with {ends[0].status}: {ends[0].output}")
            expect("is another process's at the moment" in ends[0].output, f"printed {ends[0].output}")
            return run

        with patch.object(runner, "build_run", build):
            cli_command(*OVERRIDES, f"hydra.run.dir={folder / 'run'}")()

    expect_exit(0, task)
    expect_same(read_run(folder / "run"), reference_cli_run())
    return ""


@ROWS("a run folder that is in use", "a new run refuses")
def used(folder: Path) -> str:
    expect_exit(143, lambda: _interrupted_run(folder / "run"))
    end = run_in_fork(cli_run(folder / "run"))
    expect(end.status == 1 and "holds a run already" in end.output, f"ended with status {end.status}: {end.output}")
    expect_resume(folder / "run", 2)
    return ""


@ROWS("a changed configuration", "refused field by field, exit 2", slow=True)
def changed(folder: Path) -> str:
    expect_exit(143, lambda: _interrupted_run(folder / "run"))
    end = expect_exit(
        2, cli_command(f"resume={folder / 'run'}", "seed=7", "data.batch_size=3", "schedule.rounds=9", **ALLOW)
    )
    expect("2 mistakes" in end.output, f"printed {end.output}")
    for line in ("seed=7", "was 42 when the run began", "data.batch_size=3", "was 10 when the run began"):
        expect(line in end.output, f"{line} is not in {end.output}")
    expect("schedule.rounds" not in end.output, "more rounds are refused")
    expect_resume(folder / "run", 2)
    return ""


@ROWS("resume with more rounds", "as if the run had them from the start")
def further(folder: Path) -> str:
    expect_exit(0, cli_run(folder / "run", "schedule.rounds=2"))
    expect_exit(0, cli_run(folder / "run", resume=True))
    result, expected = read_run(folder / "run"), reference_cli_run()
    expect(
        result["state"] == expected["state"] and result["files"] == expected["files"],
        "the results are not bit-identical",
    )
    return ""


@ROWS("TensorBoard's folder is gone, or a file", "a warning, the run continues", slow=True)
def no_tensorboard(folder: Path) -> str:
    def task() -> None:
        original = DiskCheckpointer.commit

        def remove_and_commit(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
            if state.round == 2:
                shutil.rmtree(folder / "run" / "tensorboard")
                (folder / "run" / "tensorboard").touch()
            original(self, state, *rest)

        with patch.object(DiskCheckpointer, "commit", remove_and_commit):
            cli_run(folder / "run", "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard")()

    output = expect_exit(0, task).output
    expect(output.count("TensorBoard failed and is told no more") == 1, f"printed {output}")
    expect("Traceback" not in output, f"printed {output}")
    expect_same(read_run(folder / "run"), reference_cli_run())
    (folder / "other").mkdir()
    (folder / "other" / "tensorboard").touch()
    end = expect_exit(
        0, cli_run(folder / "other", "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard")
    )
    expect("TensorBoard failed and is told no more" in end.output, f"printed {end.output}")
    failed = json.loads((folder / "other" / "summary.json").read_text())["observers_failed"]
    expect(list(failed) == ["TensorBoard"], f"observers_failed in the summary: {failed}")
    expect_same(read_run(folder / "other"), reference_cli_run())
    return ""


@ROWS("TensorBoard of a resumed run", "no step twice, none missing", slow=True)
def tensorboard(folder: Path) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard"

    def task() -> None:
        with signals_in_fit(3, 1, signal.SIGTERM):
            cli_run(folder / "run", more)()

    expect_exit(143, task)
    expect_exit(0, cli_run(folder / "run", more, resume=True))
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    expect(steps == [1, 2, 3, 4], f"steps {steps}")
    return ""


@ROWS("soak: many rounds of tiny clients", "memory, descriptors, threads do not grow", slow=True)
def soak(folder: Path) -> str:
    rounds, clients, first = SOAK
    overrides = (
        f"data.clients={clients} data.samples=5 schedule.clients_per_round={clients} schedule.eval_every={rounds}"
    )
    measurements: list[tuple[float, int, int]] = []

    def task() -> None:
        original = DiskCheckpointer.commit

        def commit_and_measure(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
            original(self, state, *rest)
            if state.round in (first, rounds):
                measurements.append(_resources())

        with patch.object(DiskCheckpointer, "commit", commit_and_measure):
            cli_run(folder / "run", *overrides.split(), f"schedule.rounds={rounds}")()
        before, after = measurements
        expect(after[0] - before[0] <= 2.0, f"{after[0] - before[0]:.1f} MB more")
        expect(after[1:] == before[1:], f"descriptors and threads {before[1:]}, then {after[1:]}")
        print(f"{after[0] - before[0]:+.1f} MB")

    output = expect_exit(0, task, seconds=3600).output
    return f"{rounds} of {clients}, {output.split()[-2]} MB from round {first} on"


def _resources() -> tuple[float, int, int]:
    """Return the resident megabytes, descriptors and threads of this process.

    Returns:
        (megabytes, descriptors, threads).
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    size = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return size, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


SOAK = (500, 20, 100)
"""Rounds, clients in each, and the round from which on nothing may grow."""
