"""What may befall a run as it is typed: its folder, a second process, a changed configuration."""

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
from matrix.commands import LEAVE, TYPED, ended, goes_on, split, started, typed, whole
from matrix.forks import End, forked, striking
from matrix.lab import Rows, left, must, same

ROWS = Rows()


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[bool]:
    """A small file system of its own; False where it may not be mounted."""
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode
        == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@ROWS("ENOSPC on a small tmpfs", "exit 1, the reason; with room same bits", slow=True)
def no_space(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=1m") as mounted:
        for pages in (0, 3, None):
            here = folder / "disk" / f"run-{pages}"
            end = forked(lambda here=here, pages=pages: _until_full(here, pages, mounted))
            (folder / "disk" / "filler").unlink(missing_ok=True)
            where = f"{pages} pages left"
            must(end.status == 1, f"{where}: ended with status {end.status}: {end.said}")
            must("cannot be written any more: No space left" in end.said, f"{where}: said {end.said}")
            must("Traceback" not in end.said, f"{where}: {end.said}")
            again = started(here, resume=True)
            if pages == 0:
                (command,) = re.findall(r"^  (.*resume=.*)$", end.said, re.MULTILINE)
                again = typed(split(command)[1][-1], **LEAVE)
            ended(0, again)
            same(left(here), whole(), where)
    return "in a commit and after it" if mounted else "made up: no tmpfs may be mounted here"


def _until_full(folder: Path, pages: int | None, mounted: bool) -> None:
    """A run whose disk is full but for so many pages when its third round is to be kept; None: when it was."""
    commit = DiskCheckpointer.commit

    def full(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
        if state.round == 3 and not mounted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if state.round == 3 and pages is not None:
            _fill(folder.parent / "filler", pages)
        commit(self, state, *rest)
        if state.round == 3 and pages is None:
            _fill(folder.parent / "filler", 0)

    with patch.object(DiskCheckpointer, "commit", full):
        (typed(*TYPED, f"hydra.run.dir={folder}") if pages == 0 else started(folder))()


def _fill(path: Path, pages: int) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - 4096 * pages))


@ROWS("a read-only run folder", "exit 2 before round 1", slow=True)
def read_only(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=4m") as mounted:
        here = folder / "disk" / "run"
        ended(143, lambda: _stopped(here))
        (folder / "file").touch()
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(folder / "disk")], check=True)
        targets = [here, folder / "disk" / "new"] if mounted else [folder / "file" / "run"]
        for target in targets:
            end = ended(2, typed(f"resume={target}" if target == here else f"hydra.run.dir={target}", **LEAVE))
            must(f"{target}" in end.said and "cannot be written" in end.said, f"said {end.said}")
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(folder / "disk")], check=True)
            goes_on(here, 2)
    return "new and resumed" if mounted else "below a file: no tmpfs may be mounted here"


def _stopped(folder: Path) -> None:
    with striking(3, 1, signal.SIGTERM):
        started(folder)()


@ROWS("two processes on one run folder", "the second refuses, first unharmed", slow=True)
def two(folder: Path) -> str:
    ends: list[End] = []

    def go() -> None:
        from fedlit.experiment import runner as running

        build = running.build_run

        def building(*given: Any) -> Any:  # while the first one prepares itself, and when it trains
            ends.append(forked(typed(*TYPED, f"hydra.run.dir={folder / 'run'}")))
            made = build(*given)
            must(ends[0].status == 2, f"ended with {ends[0].status}: {ends[0].said}")
            must("is another process's at the moment" in ends[0].said, f"said {ends[0].said}")
            return made

        with patch.object(running, "build", building):
            typed(*TYPED, f"hydra.run.dir={folder / 'run'}")()

    ended(0, go)
    same(left(folder / "run"), whole())
    return ""


@ROWS("a run folder that is used", "a new run refuses")
def used(folder: Path) -> str:
    ended(143, lambda: _stopped(folder / "run"))
    end = forked(started(folder / "run"))
    must(end.status == 1 and "holds a run already" in end.said, f"ended with status {end.status}: {end.said}")
    goes_on(folder / "run", 2)
    return ""


@ROWS("a changed configuration", "refused field by field, exit 2", slow=True)
def changed(folder: Path) -> str:
    ended(143, lambda: _stopped(folder / "run"))
    end = ended(2, typed(f"resume={folder / 'run'}", "seed=7", "data.batch_size=3", "schedule.rounds=9", **LEAVE))
    must("2 mistakes" in end.said, f"said {end.said}")
    for line in ("seed=7", "was 42 when the run began", "data.batch_size=3", "was 10 when the run began"):
        must(line in end.said, f"{line} is not in {end.said}")
    must("schedule.rounds" not in end.said, "more rounds are refused")
    goes_on(folder / "run", 2)
    return ""


@ROWS("resume with more rounds", "as if they had been asked for before")
def further(folder: Path) -> str:
    ended(0, started(folder / "run", "schedule.rounds=2"))
    ended(0, started(folder / "run", resume=True))
    found, wanted = left(folder / "run"), whole()
    must(found["state"] == wanted["state"] and found["files"] == wanted["files"], "other bits")
    return ""


@ROWS("TensorBoard's folder is gone, or a file", "the run goes on, and says so", slow=True)
def no_tensorboard(folder: Path) -> str:
    def go() -> None:
        commit = DiskCheckpointer.commit

        def without(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
            if state.round == 2:
                shutil.rmtree(folder / "run" / "tensorboard")
                (folder / "run" / "tensorboard").touch()
            commit(self, state, *rest)

        with patch.object(DiskCheckpointer, "commit", without):
            started(folder / "run", "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard")()

    said = ended(0, go).said
    must(said.count("TensorBoard failed and is told no more") == 1, f"said {said}")
    must("Traceback" not in said, f"said {said}")
    same(left(folder / "run"), whole())
    (folder / "other").mkdir()
    (folder / "other" / "tensorboard").touch()
    end = ended(0, started(folder / "other", "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard"))
    must("TensorBoard failed and is told no more" in end.said, f"said {end.said}")
    failed = json.loads((folder / "other" / "summary.json").read_text())["observers_failed"]
    must(list(failed) == ["TensorBoard"], f"the summary says {failed}")
    same(left(folder / "other"), whole())
    return ""


@ROWS("TensorBoard of a resumed run", "no step doubled, none missing", slow=True)
def tensorboard(folder: Path) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard"

    def go() -> None:
        with striking(3, 1, signal.SIGTERM):
            started(folder / "run", more)()

    ended(143, go)
    ended(0, started(folder / "run", more, resume=True))
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    must(steps == [1, 2, 3, 4], f"steps {steps}")
    return ""


@ROWS("soak: many rounds of tiny clients", "memory, descriptors, threads level", slow=True)
def soak(folder: Path) -> str:
    rounds, clients, first = SOAK
    words = f"data.clients={clients} data.samples=5 schedule.clients_per_round={clients} schedule.eval_every={rounds}"
    held: list[tuple[float, int, int]] = []

    def go() -> None:
        commit = DiskCheckpointer.commit

        def noting(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
            commit(self, state, *rest)
            if state.round in (first, rounds):
                held.append(_held())

        with patch.object(DiskCheckpointer, "commit", noting):
            started(folder / "run", *words.split(), f"schedule.rounds={rounds}")()
        before, after = held
        must(after[0] - before[0] <= 2.0, f"{after[0] - before[0]:.1f} MB more")
        must(after[1:] == before[1:], f"descriptors and threads {before[1:]}, then {after[1:]}")
        print(f"{after[0] - before[0]:+.1f} MB")

    said = ended(0, go, seconds=3600).said
    return f"{rounds} of {clients}, {said.split()[-2]} MB from round {first} on"


def _held() -> tuple[float, int, int]:
    """Resident megabytes, descriptors, threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    size = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return size, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


SOAK = (500, 20, 100)
"""Rounds, clients in each, and from which round on nothing may grow."""
