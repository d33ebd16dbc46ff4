"""What may befall the server between its rounds, within one, and while it commits one."""

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
from fedlit.runs.layout import CHECKPOINTS
from fedlit.server.checkpoint.disk import JOURNAL, DiskCheckpointer, Retention
from fedlit.server.checkpoint.format import STATE, committed_rounds, read_checkpoint, round_dir
from matrix.disks import CUTS, Killing, Platter, Recording, laid, points
from matrix.forks import forked, striking
from matrix.lab import Broken, Rows, bits, federation, must, run, same

ROWS = Rows()
EVERY = 1
"""At one step of a commit out of so many the server is killed."""


@cache
def unbroken(**options: Any) -> dict[str, Any]:
    """What a run leaves that nothing happens to."""
    with TemporaryDirectory() as folder:
        return run(Path(folder) / "run", **options)


def until(folder: Path, rounds: int, **options: Any) -> Path:
    """A run that was left after so many of its rounds."""
    folder.mkdir()
    for record in federation(folder, **options).run():
        if record.number == rounds:
            break
    return folder


def killed(task: Callable[[], Any]) -> None:
    """Raises Broken if a process was not killed with what it does."""
    end = forked(task)
    must(end.status == -signal.SIGKILL, f"ended with status {end.status}: {end.said}")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


@ROWS("SIGKILL of the server between two rounds", "resumes to the same bits")
def between(folder: Path) -> str:
    def go() -> None:
        for record in federation(folder / "run").run():
            if record.number == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    (folder / "run").mkdir()
    killed(go)
    must(committed_rounds(folder / "run") == [1, 2], "two rounds were kept")
    same(run(folder / "run"), unbroken())
    return ""


@ROWS("SIGKILL of the server within a round", "the round runs anew, same bits", slow=True)
def within(folder: Path) -> str:
    options = {"algorithm": FedAvg(), "norm": True}

    def go() -> None:
        with striking(3, 1, signal.SIGKILL):  # one of the round's two clients is done
            run(folder / "run", **options)

    killed(go)
    must(committed_rounds(folder / "run") == [1, 2], "two rounds were kept")
    same(run(folder / "run", **options), unbroken(**options))
    return "BatchNorm, kept momentum"


@ROWS("SIGKILL at every step of the first commit", "resumes to the same bits", slow=True)
def first_commit(folder: Path) -> str:
    return _every_step(folder, 1)


@ROWS("SIGKILL at every step of a later commit", "resumes to the same bits", slow=True)
def later_commit(folder: Path) -> str:
    return _every_step(folder, 4)


def _every_step(folder: Path, round: int) -> str:
    before = folder / "before"
    before.mkdir()
    if round > 1:
        shutil.rmtree(before)
        until(before, round - 1)
    disk = Recording()
    _next(shutil.copytree(before, folder / "recorded"), disk)
    every = list(points(disk.steps))[round % EVERY :: EVERY]
    for number, half in every:
        here = shutil.copytree(before, folder / f"{number}-{half}")
        killed(lambda here=here, number=number, half=half: _next(here, Killing(number, half)))
        same(run(here), unbroken(), f"at {disk.steps[number][0]} {number}{', in its midst' * half}")
        shutil.rmtree(here)
    return f"{len(every)} points"


def _next(folder: Path, disk: Recording) -> None:
    """One round more."""
    next(federation(folder, disk=disk).run())


@ROWS("SIGKILL while a crash is mended", "resumes to the same bits", slow=True)
def mending(folder: Path) -> str:
    before = until(folder / "before", 3)
    flip(round_dir(before, 3) / STATE)
    (before / CHECKPOINTS / ".round-000004").mkdir()
    (before / CHECKPOINTS / ".round-000004" / STATE).write_bytes(b"half of")
    with (before / JOURNAL).open("ab") as journal:
        journal.write(b'{"round": 4, "coh')
    disk = Recording()
    DiskCheckpointer(shutil.copytree(before, folder / "recorded"), filesystem=disk).load()
    every = list(points(disk.steps))
    for number, half in every:
        here = shutil.copytree(before, folder / f"{number}-{half}")
        killed(
            lambda here=here, number=number, half=half: DiskCheckpointer(here, filesystem=Killing(number, half)).load()
        )
        same(run(here), unbroken(), f"at {disk.steps[number][0]} {number}")
    return f"{len(every)} points"


@ROWS("power cut at every step of a run", "no kept round lost, same bits", slow=True)
def power(folder: Path) -> str:
    disk, done = Recording(), []
    (folder / "run").mkdir()
    for _ in federation(folder / "run", disk=disk).run():
        done.append(len(disk.steps))
    wanted = _by_round(folder / "reference")
    seen, finished, platter = set(), set(), Platter(folder / "run")
    for number in range(len(disk.steps) + 1):
        kept = sum(end <= number for end in done)
        for cut in CUTS:
            content = platter.after(cut)
            if (key := (kept, tuple(sorted(content.items(), key=str)))) in seen:
                continue
            seen.add(key)
            _outlives(laid(content, folder / str(len(seen))), kept, wanted, finished, f"step {number}, {cut}")
        if number < len(disk.steps):
            platter.do(disk.steps[number])
    return f"{len(disk.steps) + 1} points, {len(seen)} disks"


def _by_round(folder: Path) -> dict[int, tuple[Any, ...]]:
    """State and memories after each round of the unbroken run."""
    folder.mkdir()
    for _ in federation(folder, keeping=Retention(every=1)).run():
        pass
    return {round: _known(*read_checkpoint(folder, round)[:2]) for round in committed_rounds(folder)}


def _known(state: Any, store: Any) -> tuple[Any, ...]:
    return bits(state), {client: (since, str(store.read([client]))) for client, since in sorted(store.since.items())}


def _outlives(folder: Path, kept: int, wanted: dict[int, Any], finished: set[Any], where: str) -> None:
    """Raises Broken if a round that had been kept is lost, or what is there leads elsewhere."""
    try:
        saved = DiskCheckpointer(folder).load()
    except Exception as error:
        raise Broken(f"{where}: {error}") from error
    round = 0 if saved is None else saved.state.round
    must(round >= kept, f"{where}: of {kept} rounds that were kept {round} are left")
    if saved is not None:
        must(_known(saved.state, saved.client_states) == wanted[round], f"{where}: round {round} is not what it was")
        must([r["round"] for r in saved.records] == [*range(1, round + 1)], f"{where}: {len(saved.records)} records")
    way = (round, *sorted(path.name for path in (folder / CHECKPOINTS).glob("*")))
    if way not in finished:  # from the same state, past the same names, the rest is the same
        finished.add(way)
        same(run(folder), unbroken(), where)
    shutil.rmtree(folder)
