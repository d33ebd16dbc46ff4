"""One run, from its configuration to its summary: begun, gone on with, stopped, finished."""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedlit.client.worker import FatalClientFailure
from fedlit.core.errors import ConfigError, ConfigErrors, LostRounds, LostWorkers
from fedlit.core.files import LocalFilesystem, write_atomic
from fedlit.experiment.config.build import build_run
from fedlit.experiment.config.estimate import check_disk_space, client_state_nbytes, estimate_client_state
from fedlit.experiment.config.plan import client_state_line, estimate_run, plan_table
from fedlit.experiment.digests import PairingDigests
from fedlit.experiment.observers import ObserverGroup, Run, RunFolder
from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.performance import gc_frozen
from fedlit.experiment.signals import handle_signals
from fedlit.experiment.summary import RunTracker
from fedlit.runs.layout import CHECKPOINTS, COMMAND
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint
from fedlit.server.checkpoint.disk import JOURNAL, DiskCheckpointer
from fedlit.server.fingerprint import fingerprint

log = logging.getLogger("fedlit")

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class DiskFull(RuntimeError):
    """The run's folder cannot be written any more; the last round that was kept is whole."""


FATAL = (DiskFull, FatalClientFailure, LostRounds, LostWorkers)
"""What ends a run that cannot go on before something is mended."""


def run_experiment(
    config: Mapping[str, Any],
    folder: Path,
    names: Mapping[str, str],
    started: float,
    overrides: Sequence[str] = (),
    searched: bool = False,
    flags: Sequence[str] = (),
) -> float | None:
    """Trains a federation and leaves everything in its folder.

    Args:
        config: resolved, plain values; with `resume` the run that is in the folder is gone on with.
        folder: of the run.
        names: choices in the configuration's groups.
        started: time.time() when the command began, or the job.
        overrides: what was typed, for who wants to go on.
        searched: whether a sweeper needs what is returned.
        flags: what was typed besides, and has to be typed again.

    Returns:
        The monitored metric of the best round, for a sweeper; None without a validation split.

    Raises:
        Mistakes: before round 1, with everything that is wrong with the configuration.
        NoRoom: when the disk takes no more.
        Stopped: when a signal came.
    """
    with handle_signals() as wish:
        if config["check"]:
            _show_plan(config, folder, names)
            return None
        commits = DiskCheckpointer(folder)
        with _locked(commits), _translate_disk_errors(folder):
            if not config["resume"]:
                _refuse_used(folder)
            run, observers = _built(config, folder, names)
            _refuse_vain_search(run, searched)
            commits.retention = run.retention
            commits.filesystem = (
                LocalFilesystem() if run.crash is None or config["resume"] else run.crash.filesystem(LocalFilesystem())
            )
            check_disk_space(run)
            run = replace(run, federation=replace(run.federation, checkpointer=commits))
            with commits.open(fingerprint(run.federation)):
                saved = _load_or_fail(commits.load) if config["resume"] else None
                run = replace(run, finished_rounds=_done(run, saved))
                if _is_finished(run):
                    return None
                if line := client_state_line(estimate_client_state(run, client_state_nbytes(run))):
                    log.info("clients' memories: %s", line)
                wish.raise_if_set()
                first = RunFolder()
                first.start(run)
                command = {"overrides": list(overrides), "flags": list(flags)}
                write_atomic(folder / COMMAND, (json.dumps(command) + "\n").encode())
                return _rounds(run, first, observers, saved, started)


def _built(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    if config["resume"] and Path(config["resume"]).resolve() != folder.resolve():
        remedy = "it has to be typed, not to stand in a file"
        raise ConfigErrors([ConfigError("resume", config["resume"], f"is not {folder}, where this run is", remedy)])
    run, observers = build_run(config, folder, names)
    for warning in run.warnings:
        log.warning("%s", warning)
    return run, observers


def _show_plan(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> None:
    """Prints what would happen; of a run that would be gone on with, what is left of it."""
    run, _ = _built(config, folder, names)
    if config["resume"]:
        commits, experiment = DiskCheckpointer(folder), fingerprint(run.federation)
        run = replace(run, finished_rounds=_done(run, _load_or_fail(lambda: commits.peek(experiment))))
    if not _is_finished(run):
        Console().print(plan_table(run, estimate_run(run)))


def _refuse_vain_search(run: Run, searched: bool) -> None:
    if searched and run.federation.monitor.name is None:
        given, why = run.config["data"].get("val_fraction"), "leaves no validation split, whose metric is searched for"
        raise ConfigErrors([ConfigError("data.val_fraction", given, why, "hold some out")])


def _rounds(
    run: Run, first: RunFolder, observers: Sequence[Observer], saved: Checkpoint | None, started: float
) -> float | None:
    """Runs the rounds that are left, told to who watches, and leaves the summary."""
    standing, digests = RunTracker(run.federation.monitor), PairingDigests(run.federation)
    for record in run.finished_rounds:
        standing.add(record)
        digests.add(record)
    earlier, watchers = sum(record.metrics["time/round_s"] for record in run.finished_rounds), ObserverGroup(observers)
    with gc_frozen(), handle_signals() as wish, watchers:
        watchers.notify(lambda observer: observer.start(run))
        for record in run.federation.run(saved):
            standing.add(record)
            digests.add(record)
            _log(record, run.federation.schedule.rounds)
            first.round(record)
            watchers.notify(lambda observer, record=record: observer.round(record))
            wish.raise_if_set()
        summary = standing.summary(earlier + time.time() - started, run.federation.seed)
        summary |= {"digest": digests.summary(), "observers_failed": watchers.failed}
        watchers.notify(lambda observer: observer.end(summary))
        watchers.close()  # before the summary, which counts who fails at it
        first.end(summary)  # last: a folder with a summary is of a finished run
    name = standing.monitor.name
    return None if name is None or standing.best is None else standing.best.metrics.get(name)


def _log(record: RoundRecord, rounds: int) -> None:
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


def _load_or_fail(load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """Where the run goes on; None if it was killed in its first round. Raises Mistakes where `load` raises a Mistake."""
    try:
        return load()
    except ConfigError as mistake:
        raise ConfigErrors([mistake]) from mistake


def _done(run: Run, saved: Checkpoint | None) -> tuple[RoundRecord, ...]:
    """The rounds that are done, the last of them with its model."""
    if saved is None:
        return ()
    done = [RoundRecord.from_dict(record) for record in saved.records]
    done[-1] = replace(done[-1], model=run.federation.algorithm.model(saved.state.shared))
    return tuple(done)


def _is_finished(run: Run) -> bool:
    """Whether nothing is left to do, which is told."""
    if not run.finished_rounds or not (run.folder / "summary.json").is_file():
        return False
    schedule, last = run.federation.schedule, run.finished_rounds[-1]
    if last.number < schedule.rounds and not run.federation.monitor.has_reached(last, schedule.stop_at):
        return False
    said = f"{run.folder} is finished after {last.number} rounds; schedule.rounds=NUMBER goes further"
    Console().print(said, soft_wrap=True, highlight=False)
    return True


def _refuse_used(folder: Path) -> None:
    if (folder / JOURNAL).exists() or (folder / CHECKPOINTS).exists():
        remedy = f"resume={folder} goes on with it; hydra.run.dir=OTHER begins another"
        raise ConfigErrors([ConfigError("hydra.run.dir", folder, "holds a run already", remedy)])


@contextmanager
def _locked(commits: DiskCheckpointer) -> Iterator[None]:
    """Keeps other processes from the folder.

    Raises:
        Mistakes: if another process has it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(commits.lock())
        except ConfigError as mistake:
            raise ConfigErrors(
                [ConfigError("hydra.run.dir", mistake.value, mistake.problem, mistake.hint)]
            ) from mistake
        yield


@contextmanager
def _translate_disk_errors(folder: Path) -> Iterator[None]:
    """Turns what a disk says that takes no more into NoRoom."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise DiskFull(f"{folder} cannot be written any more: {error.strerror}") from error
