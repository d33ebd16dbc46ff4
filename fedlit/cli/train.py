"""`python -m fedlit.train`: trains a federated model as the configuration says."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fedlit import STARTED
from fedlit.cli import command_line
from fedlit.cli.sweep import jobs
from fedlit.cli.sweep.gpus import one_gpu
from fedlit.cli.sweep.plan import Sweep, planned
from fedlit.core.errors import Mistake, Mistakes, report
from fedlit.experiment.performance import resting
from fedlit.experiment.signals import Stopped, Wish, let_go, stoppable

log = logging.getLogger("fedlit")

ASKS_HYDRA = {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
"""Flags with which nothing is composed or trained."""
_wish = Wish()  # of a sweep that runs its jobs in this process


@hydra.main(version_base="1.3", config_path=str(command_line.conf()), config_name="config")
def _job(config: DictConfig) -> float | None:
    """One run, or one job of a multirun, which never raises: that would end the others."""
    settings = HydraConfig.get()
    multirun = settings.mode == RunMode.MULTIRUN
    started = time.time() if multirun else STARTED
    at_once = settings.launcher.get("n_jobs", 1) if multirun and config.trainer.accelerator != "cpu" else 1
    try:
        with one_gpu(at_once, config.sweep.jobs_per_gpu):  # before anything looks for a GPU
            return _one(config, settings, started, multirun)
    except Stopped as stopped:
        if multirun and stopped is not _wish.stopped:  # in a process of its own
            sys.exit(_passed_on(stopped))
        _say_then(stopped, Path(settings.runtime.output_dir), config, settings)
        raise


def _one(config: DictConfig, settings: Any, started: float, multirun: bool) -> float | None:
    from fedlit.experiment.config.build import (
        plain,
    )  # here: Lightning takes seconds, and a mistyped name is told at once
    from fedlit.experiment.runner import ENDS

    folder, values = Path(settings.runtime.output_dir), {}
    overrides = jobs.own(settings.overrides.task) if multirun else list(settings.overrides.task)
    note = partial(jobs.note, folder, overrides, settings.job.env_set.get(jobs.CALL))
    try:
        values = plain(config)
        if multirun and not config.check:
            note()
        result = _trained(values, settings, folder, overrides, started, multirun)
        if config.check:
            jobs.remove_untrained(folder)
        else:
            (folder / jobs.FAILURE).unlink(missing_ok=True)  # of a job that is run alone, to its end this time
        return result
    except ENDS as error:
        if config.traceback:
            traceback.print_exc()
        print(f"fedlit: {error}; {_how_to_go_on(folder, values, settings, ' once that is mended')}", file=sys.stderr)
        let_go(error)
        if not multirun:
            sys.exit(1)
        note([str(error)])
    except Mistakes as mistakes:
        if config.traceback:
            traceback.print_exc()
        report(mistakes.found, f"job {settings.job.num} ({' '.join(overrides)})" if multirun else "")
        if not multirun:
            jobs.remove_untrained(folder)
            sys.exit(2)
        note([str(mistake) for mistake in mistakes.found])
    except (Exception, SystemExit) as error:
        if not multirun or _wish.stopped is not None:
            raise
        log.exception("job %s failed", settings.job.num)
        note([f"{type(error).__name__}: {error}"])
    return None


def _passed_on(stopped: Stopped) -> int:
    """The exit status, once whoever handled SIGUSR1 before the run, such as submitit, which requeues the job, was told."""
    if callable(stopped.found) and stopped.number == signal.SIGUSR1:
        stopped.found(stopped.number, None)
    let_go(stopped)
    return stopped.status


def _trained(
    values: dict[str, Any], settings: Any, folder: Path, overrides: Sequence[str], started: float, multirun: bool
) -> float | None:
    """What a run is worth to a sweeper; a job that is finished is not trained again, and one that was begun is gone on with."""
    with resting():
        from fedlit.experiment.runner import train
    if multirun and not values["check"] and jobs.begun(folder, values):
        if (summary := jobs.finished(folder)) is not None:
            return jobs.objective(summary)
        values["resume"] = str(folder)
    searched = multirun and settings.sweeper.get("direction") is not None
    return train(values, folder, settings.runtime.choices, started, overrides, searched, command_line.flags(settings))


def main() -> None:
    """The command. Exit status 2 for a mistake in what was typed, 1 for a failure."""
    sys.path.insert(0, os.getcwd())  # so that `model._target_=my_file.MyModule` is found by the console script too
    try:
        with stoppable():
            status = _command()
    except Stopped as stopped:
        print(f"fedlit: stopped by {stopped}; {stopped.then}", file=sys.stderr)
        status = _passed_on(stopped)
    except Mistakes as found:
        report(found.found)
        status = 2
    if status:
        sys.exit(status)


def _command() -> int:
    """Does what was typed. The exit status.

    Raises:
        Mistakes: with what is wrong in what was typed.
        Stopped: if a signal came.
    """
    sweep = _understood()
    if sweep is not None:
        sys.argv += sweep.overrides
        return _sweep(sweep)
    if {"--help", "-h"} & set(sys.argv[1:]):
        _help()
    else:
        _job()
    return 0


def _understood() -> Sweep | None:
    """The sweep that was typed, None for a single run; `resume` in the command line has become what it stands for.

    Raises:
        Mistakes: with what is wrong in what was typed.
    """
    if any(argument.lstrip("+").startswith("resume=") for argument in sys.argv[1:]):
        from fedlit.cli.resume import rewritten

        typed, sys.argv[1:] = sys.argv[1:], rewritten(sys.argv[1:])
        if sys.argv[1:] != typed:
            sys.argv += ["hydra.mode=RUN"]  # one run, though its configuration may be of a search
    arguments = sys.argv[1:]
    flags = {argument.partition("=")[0] for argument in arguments}
    if ASKS_HYDRA & flags:
        return None
    shown = {"--cfg", "-c"} & flags
    checked = command_line.check(arguments)
    if mistakes := checked.mistakes if shown else _mistakes(arguments, checked):
        raise Mistakes(mistakes)
    return None if shown else planned(arguments, checked.mode)


def _sweep(sweep: Sweep) -> int:
    """Runs the jobs, and says what has become of them. The exit status: 1 if one of them is not finished."""
    global _wish
    status: Any = None
    try:
        with stoppable() as _wish:
            _job()
    except Stopped as stopped:
        status = stopped.status
    except SystemExit as ended:  # Hydra has said why, or a job was stopped
        status = ended.code
    all_finished = jobs.close(sweep.folder, sweep.call, sweep.flags)
    goes_on = "typed again, the sweep goes on where it was"
    if _wish.stopped is not None:
        _wish.stopped.then = goes_on
        raise _wish.stopped
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print(f"fedlit: stopped; {goes_on}", file=sys.stderr)
    return status or (0 if all_finished else 1)


def _say_then(stopped: Stopped, folder: Path, config: DictConfig, settings: Any) -> None:
    """Says how a run goes on; of one that had not begun nothing is left."""
    if not (folder / jobs.COMMAND).is_file():
        jobs.remove_untrained(folder)
    elif (
        "fedlit.experiment.runner" in sys.modules
    ):  # else it was being imported, and what is cut off there cannot be done again
        from fedlit.experiment.config.build import plain

        stopped.then = _how_to_go_on(folder, plain(config), settings)


def _how_to_go_on(folder: Path, config: Mapping[str, Any], settings: Any, then: str = "") -> str:
    from fedlit.cli.resume import resume_command
    from fedlit.server.checkpoint.format import committed

    kept = (
        "the last round that was kept is whole. To go on" if committed(folder) else "no round was done yet. To begin it"
    )
    return f"{kept}{then}:\n  {resume_command(folder, config, command_line.flags(settings))}"


def _help() -> None:
    """Hydra's help, its long lists of choices wrapped to 80 columns."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):  # Hydra ends so when it has told
        _job()
    for line in text.getvalue().splitlines():
        print(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False) if len(line) > 80 else line)


def _mistakes(arguments: Sequence[str], checked: command_line.Checked) -> list[Mistake]:
    """What can be found wrong before Hydra makes a folder; with names that are wrong, the values of the others too."""
    mistakes = [*checked.mistakes]
    if checked.config is not None and mistakes:
        with resting():
            from fedlit.experiment.config.build import Findings, parts, plain
        findings = Findings()
        with findings.within(""):
            parts(plain(checked.config), findings)
        mistakes += findings.found
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        typed = [command_line.unquoted(argument) for argument in arguments if argument.startswith(f"{key}=")]
        folder = Path(typed[-1] if typed else "outputs")
        if why := command_line.unwritable(folder):
            mistakes.append(Mistake(key, folder, f"cannot be written: {why}", f"{key}=FOLDER puts runs elsewhere"))
            break
    return mistakes
