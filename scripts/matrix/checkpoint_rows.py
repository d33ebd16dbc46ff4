"""Crashes of the server between rounds, within a round, and while it writes a checkpoint."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedlit import FedAvg
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checkpoint.folders import committed_rounds, round_dir
from fedlit.server.checkpoint.format import STATE, read_checkpoint
from matrix.disks import CUTS, Killing, Platter, Recording, kill_points, write_folder
from matrix.forks import run_in_fork, signals_in_fit
from matrix.lab import Broken, Rows, expect, expect_same, federation, run, state_content

ROWS = Rows()
EVERY = 1
"""The server is killed at one of EVERY steps of a checkpoint."""


@cache
def reference_run(**options: Any) -> dict[str, Any]:
    """Return the files of a run without a fault; see `read_run`."""
    with TemporaryDirectory() as folder:
        return run(Path(folder) / "run", **options)


def run_until(folder: Path, rounds: int, **options: Any) -> Path:
    """Run an experiment up to a round, and return its folder."""
    folder.mkdir()
    for record in federation(folder, **options).run():
        if record.number == rounds:
            break
    return folder


def expect_killed(task: Callable[[], Any]) -> None:
    """Raise Broken if a process that runs a task is not killed."""
    end = run_in_fork(task)
    expect(end.status == -signal.SIGKILL, f"ended with status {end.status}: {end.output}")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


@ROWS("SIGKILL of the server between two rounds", "resumes, same bits")
def between(folder: Path) -> str:
    def task() -> None:
        for record in federation(folder / "run").run():
            if record.number == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    (folder / "run").mkdir()
    expect_killed(task)
    expect(committed_rounds(folder / "run") == [1, 2], "the checkpoints are not those of rounds 1 and 2")
    expect_same(run(folder / "run"), reference_run())
    return ""


@ROWS("SIGKILL of the server within a round", "the round runs again, same bits", slow=True)
def within(folder: Path) -> str:
    options = {"algorithm": FedAvg(), "norm": True}

    def task() -> None:
        with signals_in_fit(3, 1, signal.SIGKILL):  # one of the round's two clients has trained
            run(folder / "run", **options)

    expect_killed(task)
    expect(committed_rounds(folder / "run") == [1, 2], "the checkpoints are not those of rounds 1 and 2")
    expect_same(run(folder / "run", **options), reference_run(**options))
    return "BatchNorm, kept momentum"


@ROWS("SIGKILL at every step of the first checkpoint", "resumes, same bits", slow=True)
def first_checkpoint(folder: Path) -> str:
    return _every_step(folder, 1)


@ROWS("SIGKILL at every step of a later checkpoint", "resumes, same bits", slow=True)
def later_checkpoint(folder: Path) -> str:
    return _every_step(folder, 4)


def _every_step(folder: Path, round: int) -> str:
    before = folder / "before"
    before.mkdir()
    if round > 1:
        shutil.rmtree(before)
        run_until(before, round - 1)
    disk = Recording()
    _run_next_round(shutil.copytree(before, folder / "recorded"), disk)
    every = list(kill_points(disk.steps))[round % EVERY :: EVERY]
    for number, half in every:
        here = shutil.copytree(before, folder / f"{number}-{half}")
        expect_killed(lambda here=here, number=number, half=half: _run_next_round(here, Killing(number, half)))
        expect_same(run(here), reference_run(), f"at {disk.steps[number][0]} {number}{', half done' * half}")
        shutil.rmtree(here)
    return f"{len(every)} points"


def _run_next_round(folder: Path, disk: Recording) -> None:
    """Run one more round."""
    next(federation(folder, disk=disk).run())


@ROWS("SIGKILL while a crash is repaired", "resumes, same bits", slow=True)
def repair(folder: Path) -> str:
    before = run_until(folder / "before", 3)
    flip(round_dir(before, 3) / STATE)
    (before / CHECKPOINTS / ".round-000004").mkdir()
    (before / CHECKPOINTS / ".round-000004" / STATE).write_bytes(b"half of")
    with (before / JOURNAL).open("ab") as journal:
        journal.write(b'{"round": 4, "coh')
    disk = Recording()
    DiskCheckpointer(shutil.copytree(before, folder / "recorded"), filesystem=disk).load()
    every = list(kill_points(disk.steps))
    for number, half in every:
        here = shutil.copytree(before, folder / f"{number}-{half}")
        expect_killed(
            lambda here=here, number=number, half=half: DiskCheckpointer(here, filesystem=Killing(number, half)).load()
        )
        expect_same(run(here), reference_run(), f"at {disk.steps[number][0]} {number}")
    return f"{len(every)} points"


@ROWS("power cut at every step of a run", "no checkpoint lost, same bits", slow=True)
def power(folder: Path) -> str:
    disk, round_ends = Recording(), []
    (folder / "run").mkdir()
    for _ in federation(folder / "run", disk=disk).run():
        round_ends.append(len(disk.steps))
    expected = _states_by_round(folder / "reference")
    seen, finished, platter = set(), set(), Platter(folder / "run")
    for number in range(len(disk.steps) + 1):
        complete = sum(end <= number for end in round_ends)
        for cut in CUTS:
            content = platter.after(cut)
            if (key := (complete, tuple(sorted(content.items(), key=str)))) in seen:
                continue
            seen.add(key)
            _expect_survival(
                write_folder(content, folder / str(len(seen))), complete, expected, finished, f"step {number}, {cut}"
            )
        if number < len(disk.steps):
            platter.do(disk.steps[number])
    return f"{len(disk.steps) + 1} points, {len(seen)} disks"


def _states_by_round(folder: Path) -> dict[int, tuple[Any, ...]]:
    """Return the server state and the client state after each round of a run without a fault."""
    folder.mkdir()
    for _ in federation(folder, retention=Retention(every=1)).run():
        pass
    return {round: _state_and_client_states(*read_checkpoint(folder, round)[:2]) for round in committed_rounds(folder)}


def _state_and_client_states(state: Any, store: Any) -> tuple[Any, ...]:
    return state_content(state), {
        client: (since, str(store.read([client]))) for client, since in sorted(store.last_update.items())
    }


def _expect_survival(folder: Path, complete: int, expected: dict[int, Any], finished: set[Any], where: str) -> None:
    """Raise Broken if a checkpoint is lost, or the resumed run is not bit-identical."""
    try:
        saved = DiskCheckpointer(folder).load()
    except Exception as error:
        raise Broken(f"{where}: {error}") from error
    round = 0 if saved is None else saved.state.round
    expect(round >= complete, f"{where}: {round} of {complete} checkpoints are left")
    if saved is not None:
        expect(
            _state_and_client_states(saved.state, saved.client_states) == expected[round],
            f"{where}: round {round} differs",
        )
        expect([r["round"] for r in saved.records] == [*range(1, round + 1)], f"{where}: {len(saved.records)} records")
    key = (round, *sorted(path.name for path in (folder / CHECKPOINTS).glob("*")))
    if key not in finished:  # the same state and the same names lead to the same result
        finished.add(key)
        expect_same(run(folder), reference_run(), where)
    shutil.rmtree(folder)
