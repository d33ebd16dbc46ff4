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
from fedlit.cli.sweep.gpus import reserve_gpu
from fedlit.cli.sweep.plan import Sweep, plan_sweep
from fedlit.core.errors import ConfigError, ConfigErrors, print_config_errors
from fedlit.experiment.performance import gc_paused
from fedlit.experiment.signals import Interrupted, StopRequest, clear_frames, handle_signals

log = logging.getLogger("fedlit")

ASKS_HYDRA = {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
"""Flags with which nothing is composed or trained."""
_wish = StopRequest()  # of a sweep that runs its jobs in this process


@hydra.main(version_base="1.3", config_path=str(command_line.config_dir()), config_name="config")
def _job(config: DictConfig) -> float | None:
    """One run, or one job of a multirun, which never raises: that would end the others."""
    settings = HydraConfig.get()
    multirun = settings.mode == RunMode.MULTIRUN
    started = time.time() if multirun else STARTED
    at_once = settings.launcher.get("n_jobs", 1) if multirun and config.trainer.accelerator != "cpu" else 1
    try:
        with reserve_gpu(at_once, config.sweep.jobs_per_gpu):  # before anything looks for a GPU
            return _one(config, settings, started, multirun)
    except Interrupted as stopped:
        if multirun and stopped is not _wish.stopped:  # in a process of its own
            sys.exit(_passed_on(stopped))
        _say_then(stopped, Path(settings.runtime.output_dir), config, settings)
        raise


def _one(config: DictConfig, settings: Any, started: float, multirun: bool) -> float | None:
    from fedlit.experiment.config.build import (
        to_plain,
    )  # here: Lightning takes seconds, and a mistyped name is told at once
    from fedlit.experiment.runner import FATAL

    folder, values = Path(settings.runtime.output_dir), {}
    overrides = jobs.job_overrides(settings.overrides.task) if multirun else list(settings.overrides.task)
    note = partial(jobs.write_job, folder, overrides, settings.job.env_set.get(jobs.CALL))
    try:
        values = to_plain(config)
        if multirun and not config.check:
            note()
        result = _trained(values, settings, folder, overrides, started, multirun)
        if config.check:
            jobs.remove_untrained(folder)
        else:
            (folder / jobs.FAILURE).unlink(missing_ok=True)  # of a job that is run alone, to its end this time
        return result
    except FATAL as error:
        if config.traceback:
            traceback.print_exc()
        print(f"fedlit: {error}; {_how_to_go_on(folder, values, settings, ' once that is mended')}", file=sys.stderr)
        clear_frames(error)
        if not multirun:
            sys.exit(1)
        note([str(error)])
    except ConfigErrors as mistakes:
        if config.traceback:
            traceback.print_exc()
        print_config_errors(mistakes.errors, f"job {settings.job.num} ({' '.join(overrides)})" if multirun else "")
        if not multirun:
            jobs.remove_untrained(folder)
            sys.exit(2)
        note([str(mistake) for mistake in mistakes.errors])
    except (Exception, SystemExit) as error:
        if not multirun or _wish.stopped is not None:
            raise
        log.exception("job %s failed", settings.job.num)
        note([f"{type(error).__name__}: {error}"])
    return None


def _passed_on(stopped: Interrupted) -> int:
    """The exit status, once whoever handled SIGUSR1 before the run, such as submitit, which requeues the job, was told."""
    if callable(stopped.found) and stopped.number == signal.SIGUSR1:
        stopped.found(stopped.number, None)
    clear_frames(stopped)
    return stopped.status


def _trained(
    values: dict[str, Any], settings: Any, folder: Path, overrides: Sequence[str], started: float, multirun: bool
) -> float | None:
    """What a run is worth to a sweeper; a job that is finished is not trained again, and one that was begun is gone on with."""
    with gc_paused():
        from fedlit.experiment.runner import run_experiment
    if multirun and not values["check"] and jobs.can_resume(folder, values):
        if (summary := jobs.read_summary(folder)) is not None:
            return jobs.objective(summary)
        values["resume"] = str(folder)
    searched = multirun and settings.sweeper.get("direction") is not None
    return run_experiment(
        values, folder, settings.runtime.choices, started, overrides, searched, command_line.config_flags(settings)
    )


def main() -> None:
    """The command. Exit status 2 for a mistake in what was typed, 1 for a failure."""
    sys.path.insert(0, os.getcwd())  # so that `model._target_=my_file.MyModule` is found by the console script too
    try:
        with handle_signals():
            status = _command()
    except Interrupted as stopped:
        print(f"fedlit: stopped by {stopped}; {stopped.then}", file=sys.stderr)
        status = _passed_on(stopped)
    except ConfigErrors as found:
        print_config_errors(found.errors)
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
        from fedlit.cli.resume import resume_arguments

        typed, sys.argv[1:] = sys.argv[1:], resume_arguments(sys.argv[1:])
        if sys.argv[1:] != typed:
            sys.argv += ["hydra.mode=RUN"]  # one run, though its configuration may be of a search
    arguments = sys.argv[1:]
    flags = {argument.partition("=")[0] for argument in arguments}
    if ASKS_HYDRA & flags:
        return None
    shown = {"--cfg", "-c"} & flags
    checked = command_line.parse_command(arguments)
    if mistakes := checked.errors if shown else _mistakes(arguments, checked):
        raise ConfigErrors(mistakes)
    return None if shown else plan_sweep(arguments, checked.mode)


def _sweep(sweep: Sweep) -> int:
    """Runs the jobs, and says what has become of them. The exit status: 1 if one of them is not finished."""
    global _wish
    status: Any = None
    try:
        with handle_signals() as _wish:
            _job()
    except Interrupted as stopped:
        status = stopped.status
    except SystemExit as ended:  # Hydra has said why, or a job was stopped
        status = ended.code
    all_finished = jobs.finish_sweep(sweep.folder, sweep.call, sweep.flags)
    goes_on = "typed again, the sweep goes on where it was"
    if _wish.stopped is not None:
        _wish.stopped.then = goes_on
        raise _wish.stopped
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print(f"fedlit: stopped; {goes_on}", file=sys.stderr)
    return status or (0 if all_finished else 1)


def _say_then(stopped: Interrupted, folder: Path, config: DictConfig, settings: Any) -> None:
    """Says how a run goes on; of one that had not begun nothing is left."""
    if not (folder / jobs.COMMAND).is_file():
        jobs.remove_untrained(folder)
    elif (
        "fedlit.experiment.runner" in sys.modules
    ):  # else it was being imported, and what is cut off there cannot be done again
        from fedlit.experiment.config.build import to_plain

        stopped.then = _how_to_go_on(folder, to_plain(config), settings)


def _how_to_go_on(folder: Path, config: Mapping[str, Any], settings: Any, then: str = "") -> str:
    from fedlit.cli.resume import resume_command
    from fedlit.server.checkpoint.format import committed_rounds

    kept = (
        "the last round that was kept is whole. To go on"
        if committed_rounds(folder)
        else "no round was done yet. To begin it"
    )
    return f"{kept}{then}:\n  {resume_command(folder, config, command_line.config_flags(settings))}"


def _help() -> None:
    """Hydra's help, its long lists of choices wrapped to 80 columns."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):  # Hydra ends so when it has told
        _job()
    for line in text.getvalue().splitlines():
        print(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False) if len(line) > 80 else line)


def _mistakes(arguments: Sequence[str], checked: command_line.ParsedCommand) -> list[ConfigError]:
    """What can be found wrong before Hydra makes a folder; with names that are wrong, the values of the others too."""
    mistakes = [*checked.errors]
    if checked.config is not None and mistakes:
        with gc_paused():
            from fedlit.experiment.config.build import ErrorCollector, make_components, to_plain
        findings = ErrorCollector()
        with findings.collect(""):
            make_components(to_plain(checked.config), findings)
        mistakes += findings.all
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        typed = [command_line.unquote(argument) for argument in arguments if argument.startswith(f"{key}=")]
        folder = Path(typed[-1] if typed else "outputs")
        if why := command_line.write_error(folder):
            mistakes.append(ConfigError(key, folder, f"cannot be written: {why}", f"{key}=FOLDER puts runs elsewhere"))
            break
    return mistakes
