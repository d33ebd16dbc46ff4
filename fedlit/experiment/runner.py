"""One run, from its configuration to its summary: start, resume, interruption, end."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError, ConfigErrors, DiskFull
from fedlit.core.files import LocalFilesystem
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import short_path
from fedlit.core.text.steps import steps
from fedlit.executors.pool.fork_server import closing_fork_server
from fedlit.experiment.config.build import build_run
from fedlit.experiment.lost_rounds import explain_lost_rounds
from fedlit.experiment.observers import Observer, Run
from fedlit.experiment.performance import gc_frozen
from fedlit.experiment.plan.client_states import check_disk_space, client_state_nbytes, estimate_client_state
from fedlit.experiment.plan.estimate import estimate_run
from fedlit.experiment.plan.table import client_state_line, plan_table
from fedlit.experiment.reporter import RoundReporter
from fedlit.experiment.run import read_finished_rounds
from fedlit.experiment.signals import handle_signals
from fedlit.runs.layout import CHECKPOINTS, JOURNAL, SUMMARY
from fedlit.runs.sweep_job import SweepJob
from fedlit.server.checkpoint.checkpointer import Checkpoint
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checks.fingerprint import fingerprint

log = logging.getLogger("fedlit")

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def run_experiment(
    config: Mapping[str, Any],
    folder: Path,
    names: Mapping[str, str],
    started: float,
    overrides: Sequence[str] = (),
    sweep_job: SweepJob | None = None,
    flags: Sequence[str] = (),
) -> float | None:
    """Train a federation and write its results into the run's folder.

    Args:
        config: resolved configuration, plain values; with `resume` the run in the folder is resumed.
        folder: folder of the run.
        names: choices in the configuration's groups.
        started: time.time() at the start of the command or of the sweep's job.
        overrides: command-line overrides, needed to resume.
        sweep_job: place of the run in a sweep; None for a single run.
        flags: further command-line flags, needed to resume.

    Returns:
        The monitored metric of the best round, for a sweeper; None without a validation split.

    Raises:
        ConfigErrors: before round 1, with all errors in the configuration.
        DiskFull: if the folder can no longer be written.
        Interrupted: if a signal came.
        LostRounds: if all rounds or too many in a row are lost.
    """
    with handle_signals() as stop_request, closing_fork_server():
        if config["check"]:
            _print_plan(config, folder, names)
            return None
        checkpointer = DiskCheckpointer(folder)
        with _locked(checkpointer), _translate_disk_errors(folder):
            run, observers = _prepare(config, folder, names, checkpointer, sweep_job)
            with checkpointer.open(fingerprint(run.federation)):
                checkpoint = _load_or_fail(checkpointer.load) if config["resume"] else None
                run = replace(run, finished_rounds=read_finished_rounds(run.federation, checkpoint))
                if _is_finished(run):
                    return None
                if line := client_state_line(estimate_client_state(run, client_state_nbytes(run))):
                    log.info("client state: %s", line)
                stop_request.raise_if_set()
                reporter = RoundReporter(run, observers)
                reporter.open_folder(overrides, flags)
                steps.info("training in %s", short_path(folder))
                with gc_frozen(), reporter:
                    reporter.start()
                    with explain_lost_rounds(reporter.tracker):
                        for record in run.federation.run(checkpoint):
                            reporter.report(record)
                            stop_request.raise_if_set()
                    return reporter.finish(time.time() - started)


def _prepare(
    config: Mapping[str, Any],
    folder: Path,
    names: Mapping[str, str],
    checkpointer: DiskCheckpointer,
    sweep_job: SweepJob | None,
) -> tuple[Run, list[Observer]]:
    """Check the folder, build the run, and give it the checkpointer.

    Returns:
        The run and its observers.

    Raises:
        ConfigErrors: if the configuration or the folder cannot be used.
    """
    if not config["resume"]:
        _refuse_used_folder(folder)
    run, observers = _build(config, folder, names)
    if sweep_job is not None and sweep_job.is_trial:
        _refuse_missing_objective(run)
    checkpointer.retention = run.retention
    crash = None if config["resume"] else run.crash  # a planned crash happens once
    checkpointer.filesystem = LocalFilesystem() if crash is None else crash.filesystem(LocalFilesystem())
    check_disk_space(run)
    federation = replace(run.federation, checkpointer=checkpointer)
    return replace(run, federation=federation, sweep_job=sweep_job), observers


def _build(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    """Build the run and its observers, and log the warnings.

    Returns:
        The run and its observers.
    """
    if config["resume"] and Path(config["resume"]).resolve() != folder.resolve():
        hint = "give resume on the command line, not in a configuration file"
        raise ConfigErrors([ConfigError("resume", config["resume"], f"is not {folder}, the folder of this run", hint)])
    run, observers = build_run(config, folder, names)
    for warning in run.warnings:
        log.warning("%s", warning)
    return run, observers


def _print_plan(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> None:
    """Print the plan of the run; with `resume`, of its remaining rounds."""
    run, _ = _build(config, folder, names)
    steps.info("measuring batches")
    if config["resume"]:
        checkpointer, experiment = DiskCheckpointer(folder), fingerprint(run.federation)
        checkpoint = _load_or_fail(lambda: checkpointer.peek(experiment))
        run = replace(run, finished_rounds=read_finished_rounds(run.federation, checkpoint))
    if not _is_finished(run):
        PlainConsole().print(plan_table(run, estimate_run(run)))


def _refuse_missing_objective(run: Run) -> None:
    """Raise ConfigErrors if the run has no validation metric for a sweeper."""
    if run.federation.monitor.name is None:
        value = run.config["data"].get("val_fraction")
        problem = "leaves no validation split, and the search needs a validation metric"
        raise ConfigErrors([ConfigError("data.val_fraction", value, problem, "hold out some samples")])


def _load_or_fail(load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """Return the checkpoint to resume from; None if no round was finished.

    Raises:
        ConfigErrors: if `load` raises a ConfigError.
    """
    try:
        return load()
    except ConfigError as error:
        raise ConfigErrors([error]) from error


def _is_finished(run: Run) -> bool:
    """Return True, and print it, if no round is left."""
    if not run.finished_rounds or not (run.folder / SUMMARY).is_file():
        return False
    schedule, last = run.federation.schedule, run.finished_rounds[-1]
    if last.number < schedule.rounds and not run.federation.monitor.has_reached(last, schedule.stop_at):
        return False
    text = f"{run.folder} is finished after {last.number} rounds; add schedule.rounds=NUMBER to train more rounds"
    PlainConsole().print(text, soft_wrap=True)
    return True


def _refuse_used_folder(folder: Path) -> None:
    """Raise ConfigErrors if the folder holds a run."""
    if (folder / JOURNAL).exists() or (folder / CHECKPOINTS).exists():
        hint = f"resume={folder} resumes it; hydra.run.dir=OTHER starts another run"
        raise ConfigErrors([ConfigError("hydra.run.dir", folder, "holds a run already", hint)])


@contextmanager
def _locked(checkpointer: DiskCheckpointer) -> Iterator[None]:
    """Lock the folder against other processes in the block.

    Raises:
        ConfigErrors: if another process has locked it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(checkpointer.lock())
        except ConfigError as error:
            raise ConfigErrors([ConfigError("hydra.run.dir", error.value, error.problem, error.hint)]) from error
        yield


@contextmanager
def _translate_disk_errors(folder: Path) -> Iterator[None]:
    """Raise DiskFull instead of the OSError of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL_ERRNOS:
            raise
        raise DiskFull(f"{folder} can no longer be written: {error.strerror}") from error
