"""One run, from its configuration to its summary: begun, gone on with, stopped, finished."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from fedlit import wire
from fedlit.build import build
from fedlit.checkpoint import JOURNAL, Checkpoints
from fedlit.commits import FOLDER, Commits, Saved
from fedlit.digests import Digests
from fedlit.disk import LocalDisk, replace_file
from fedlit.faults import LostRounds, LostWorkers
from fedlit.mistakes import Mistake, Mistakes
from fedlit.observers import Run, RunFolder, Watchers
from fedlit.plan import memories_line, plan, plan_table
from fedlit.protocols import Observer
from fedlit.record import Round
from fedlit.room import memory_of_a_client, room_for_memories
from fedlit.signals import stoppable
from fedlit.summary import Standing
from fedlit.trust import VARIABLE, distrust
from fedlit.worker import ClientFailed

log = logging.getLogger("fedlit")

COMMAND = "command.json"
CHECKPOINTS = 3  # best.ckpt, model.ckpt, model.safetensors
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class NoRoom(RuntimeError):
    """The run's folder cannot be written any more; the last round that was kept is whole."""


ENDS = (NoRoom, ClientFailed, LostRounds, LostWorkers)
"""What ends a run that cannot go on before something is mended."""


def train(
    config: Mapping[str, Any],
    folder: Path,
    names: Mapping[str, str],
    started: float,
    overrides: Sequence[str] = (),
    searched: bool = False,
) -> float | None:
    """Trains a federation and leaves everything in its folder.

    Args:
        config: resolved, plain values; with `resume` the run that is in the folder is gone on with.
        folder: of the run.
        names: choices in the configuration's groups.
        started: time.time() when the command began, or the job.
        overrides: what was typed, for who wants to go on.
        searched: whether a sweeper needs what is returned.

    Returns:
        The monitored metric of the best round, for a sweeper; None without a validation split.

    Raises:
        Mistakes: before round 1, with everything that is wrong with the configuration.
        NoRoom: when the disk takes no more.
        Stopped: when a signal came.
    """
    if config["check"]:
        run, _ = _built(config, folder, names)
        Console().print(plan_table(run, plan(run)))
        return None
    with _locked(folder), _room(folder):
        if not config["resume"]:
            _refuse_used(folder)
        elif Path(config["resume"]).resolve() != folder.resolve():
            remedy = "it has to be typed, not to stand in a file"
            raise Mistakes([Mistake("resume", config["resume"], f"is not {folder}, where this run is", remedy)])
        run, observers = _built(config, folder, names)
        if searched and run.federation.monitor.name is None:
            why = "leaves no validation split, whose metric is what the search is for"
            raise Mistakes([Mistake("data.val_fraction", config["data"].get("val_fraction"), why, "hold some out")])
        disk = LocalDisk() if run.crash is None or config["resume"] else run.crash.disk(LocalDisk())
        _refuse_small_disk(run)
        if line := memories_line(room_for_memories(run, memory_of_a_client(run))):
            log.info("clients' memories: %s", line)
        commits = Checkpoints(folder, run.keeping, disk)
        run = replace(run, federation=replace(run.federation, commits=commits))
        saved = _loaded(commits) if config["resume"] else None
        if saved is not None:
            run = replace(run, done=_done(run, saved))
            if _is_finished(run):
                said = f"{folder} is finished after {run.done[-1].number} rounds; schedule.rounds=NUMBER goes further"
                Console().print(said, soft_wrap=True, highlight=False)
                return None
        replace_file(folder / COMMAND, (json.dumps({"overrides": list(overrides)}) + "\n").encode())
        result = _rounds(run, observers, saved, started)
        commits.finish()
        return result


def resume_command(folder: Path, config: Mapping[str, Any]) -> str:
    """What to type to go on with a run: with leave to import what is the user's own."""
    own = {str(mistake.given).partition(".")[0] for mistake in distrust(config)}
    own |= {*filter(None, os.environ.get(VARIABLE, "").split(","))}
    allow = f"{VARIABLE}={','.join(sorted(own))} " if own else ""
    return f"{allow}python -m fedlit.train resume={shlex.quote(str(folder))}"


def _built(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    run, observers = build(config, folder, names)
    for warning in run.warnings:
        log.warning("%s", warning)
    return run, observers


def _rounds(run: Run, observers: Sequence[Observer], saved: Saved | None, started: float) -> float | None:
    """Runs the rounds that are left, told to who watches, and leaves the summary."""
    standing, digests = Standing(run.federation.monitor), Digests(run.federation)
    for record in run.done:
        standing.add(record)
        digests.add(record)
    first, watchers = RunFolder(), Watchers(observers)
    with _settled(), stoppable() as wish, watchers:
        first.start(run)
        watchers.tell(lambda observer: observer.start(run))
        for record in run.federation.run(saved):
            standing.add(record)
            digests.add(record)
            _log(record, run.federation.schedule.rounds)
            first.round(record)
            watchers.tell(lambda observer, record=record: observer.round(record))
            wish.heed()
        summary = standing.summary(time.time() - started, run.federation.seed)
        summary |= {"digest": digests.summary(), "observers_failed": watchers.failed}
        watchers.tell(lambda observer: observer.end(summary))
        first.end(summary)  # last: a folder with a summary is of a finished run
    name = standing.monitor.name
    return None if name is None or standing.best is None else standing.best.metrics.get(name)


@contextmanager
def _settled() -> Iterator[None]:
    """In the block Python's collector leaves alone what was there before. A fit leaves cycles, which are collected when they
    are a quarter as many as all else, and all else is half a million objects: megabytes of cycles."""
    gc.freeze()
    gc.collect()  # of next to nothing, from which the quarter is counted
    try:
        yield
    finally:
        gc.unfreeze()


def _log(record: Round, rounds: int) -> None:
    """A line for the round, and one for what went wrong in it."""
    shown = {name: value for name, value in record.metrics.items() if name.startswith(("train/loss", "val/", "test/"))}
    figures = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
    clients = f"{int(record.metrics['clients/trained'])} of {len(record.cohort)} clients"
    log.info("round %d/%d  %s  %s  %.1f s", record.number, rounds, clients, figures, record.metrics["time/round_s"])
    if record.lost:
        log.warning("round %d is lost: %s", record.number, record.lost)
    for failure in record.failures:
        if failure.outcome == "surplus":  # planned, by schedule.over_select
            continue
        log.warning(
            "round %d: client %d left out, %s: %s", record.number, failure.client, failure.outcome, failure.reason
        )


def _loaded(commits: Commits) -> Saved | None:
    """Where the run goes on; None if it was killed in its first round, and begins anew. Raises Mistakes as `load` a Mistake."""
    try:
        return commits.load()
    except Mistake as mistake:
        raise Mistakes([mistake]) from mistake


def _done(run: Run, saved: Saved) -> tuple[Round, ...]:
    """The rounds that are done, the last of them with its model."""
    done = [Round.of(record) for record in saved.records]
    done[-1] = replace(done[-1], model=run.federation.algorithm.model(saved.state.shared))
    return tuple(done)


def _is_finished(run: Run) -> bool:
    schedule, last = run.federation.schedule, run.done[-1]
    over = last.number >= schedule.rounds or run.federation.monitor.reached(last, schedule.stop_at)
    return over and (run.folder / "summary.json").is_file()


def _refuse_used(folder: Path) -> None:
    if (folder / JOURNAL).exists() or (folder / FOLDER).exists():
        remedy = f"resume={folder} goes on with it; hydra.run.dir=OTHER begins another"
        raise Mistakes([Mistake("hydra.run.dir", folder, "holds a run already", remedy)])


def _refuse_small_disk(run: Run) -> None:
    """Raises Mistakes if the disk has not room for the commits that are kept, one being written, and the checkpoints."""
    state = run.federation.algorithm.init(run.federation.initial)
    size = sum(tensor.numel() * tensor.element_size() for tensor in wire.freeze_state(state).values())
    need, free = size * (run.keeping.keep + 1 + CHECKPOINTS), shutil.disk_usage(run.folder).free
    if need > free:
        why = f"has room for {free / 1e6:,.0f} MB, and the run's commits and checkpoints take {need / 1e6:,.0f} MB"
        raise Mistakes(
            [Mistake("hydra.run.dir", run.folder, why, "make room, or hydra.run.dir=FOLDER on another disk")]
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from the folder.

    Raises:
        Mistakes: if another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        why = "is another process's at the moment"
        raise Mistakes([Mistake("hydra.run.dir", folder, why, "wait for its end, or take another folder")]) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Turns what a disk says that takes no more into NoRoom."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoRoom(f"{folder} cannot be written any more: {error.strerror}") from error
