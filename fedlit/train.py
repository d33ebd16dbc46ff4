"""`python -m fedlit.train`: trains a federated model as the configuration says."""

from __future__ import annotations

import io
import logging
import os
import shutil
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
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fedlit import STARTED, command_line, jobs
from fedlit.mistakes import Mistake, Mistakes, tell
from fedlit.signals import Stopped, Wish, stoppable
from fedlit.sweep import Sweep, planned

log = logging.getLogger("fedlit")

ASKS_HYDRA = {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
ASKS_HYDRA |= {"--cfg", "-c", "--resolve", "--package", "-p"}
"""Flags with which nothing is trained."""

_wish = Wish()  # of a sweep that runs its jobs in this process


@hydra.main(version_base="1.3", config_path=str(command_line.conf()), config_name="config")
def _job(config: DictConfig) -> float | None:
    """One run, or one job of a multirun, which never raises: that would end the others."""
    settings = HydraConfig.get()
    multirun = settings.mode == RunMode.MULTIRUN
    started = time.time() if multirun else STARTED
    at_once = settings.launcher.get("n_jobs", 1) if multirun and config.trainer.accelerator != "cpu" else 1
    with jobs.one_gpu(at_once, config.sweep.jobs_per_gpu):  # before anything looks for a GPU
        return _one(config, settings, started, multirun)


def _one(config: DictConfig, settings: Any, started: float, multirun: bool) -> float | None:
    from fedlit.build import plain  # here: Lightning takes seconds, and a mistyped name is told at once
    from fedlit.running import ENDS

    folder, values = Path(settings.runtime.output_dir), {}
    overrides = jobs.own(settings.overrides.task) if multirun else list(settings.overrides.task)
    note = partial(jobs.note, folder, overrides, settings.job.env_set.get(jobs.CALL))
    try:
        values = plain(config)
        if multirun and not config.check:
            note()
        result = _trained(values, settings, folder, overrides, started, multirun)
        if config.check:
            _remove_untrained(folder)
        else:
            (folder / jobs.FAILURE).unlink(missing_ok=True)  # of a job that is run alone, to its end this time
        return result
    except Stopped as stopped:
        if not multirun:
            _tell_how_to_go_on(f"stopped by {stopped}", folder, values)
        sys.exit(_passed_on(stopped))
    except ENDS as error:
        if config.traceback:
            traceback.print_exc()
        _tell_how_to_go_on(str(error), folder, values, " once that is mended")
        let_go(error)
        if not multirun:
            sys.exit(1)
        note([str(error)])
    except Mistakes as mistakes:
        if config.traceback:
            traceback.print_exc()
        report(mistakes.found, f"job {settings.job.num} ({' '.join(overrides)})" if multirun else "")
        if not multirun:
            _remove_untrained(folder)
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
    from fedlit.running import train

    if multirun and not values["check"] and jobs.begun(folder, values):
        if (summary := jobs.finished(folder)) is not None:
            return jobs.objective(summary)
        values["resume"] = str(folder)
    searched = multirun and settings.sweeper.get("direction") is not None
    return train(values, folder, settings.runtime.choices, started, overrides, searched)


def main() -> None:
    """The command. Exit status 2 for a mistake in what was typed, 1 for a failure."""
    sys.path.insert(0, os.getcwd())  # so that `model._target_=my_file.MyModule` is found by the console script too
    try:
        sweep = _understood()
    except Mistakes as found:
        report(found.found)
        sys.exit(2)
    if sweep is not None:
        sys.argv += sweep.overrides
        sys.exit(_sweep(sweep))
    if {"--help", "-h"} & set(sys.argv[1:]):
        _help()
    else:
        _job()


def _understood() -> Sweep | None:
    """The sweep that was typed, None for a single run; `resume` in the command line has become what it stands for.

    Raises:
        Mistakes: with what is wrong in what was typed.
    """
    if any(argument.lstrip("+").startswith("resume=") for argument in sys.argv[1:]):
        from fedlit.resume import rewritten

        sys.argv[1:] = rewritten(sys.argv[1:])
    arguments = sys.argv[1:]
    if ASKS_HYDRA & {argument.partition("=")[0] for argument in arguments}:
        return None
    if mistakes := _mistakes(arguments):
        raise Mistakes(mistakes)
    return planned(arguments)


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
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print("fedlit: stopped; typed again, the sweep goes on where it was", file=sys.stderr)
    return status or (0 if all_finished else 1)


def _tell_how_to_go_on(why: str, folder: Path, config: Mapping[str, Any], then: str = "") -> None:
    from fedlit.running import resume_command

    print(f"fedlit: {why}; the last round that was kept is whole. To go on{then}:", file=sys.stderr)
    print(f"  {resume_command(folder, config)}", file=sys.stderr)


def let_go(error: BaseException | None) -> None:
    """Frees what an error's frames hold: what torch made of another's memory crashes if it outlives the interpreter."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _help() -> None:
    """Hydra's help, its long lists of choices wrapped to 80 columns."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):  # Hydra ends so when it has told
        _job()
    for line in text.getvalue().splitlines():
        print(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False) if len(line) > 80 else line)


def _mistakes(arguments: Sequence[str]) -> list[Mistake]:
    """What can be found wrong before Hydra makes a folder; with names that are wrong, the values of the others too."""
    mistakes, config = command_line.check(arguments)
    if config is not None and mistakes:
        from fedlit.build import Findings, parts, plain

        findings = Findings()
        try:
            parts(plain(config), findings)
        except Mistakes as more:
            findings.found += more.found
        mistakes += findings.found
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        typed = [command_line.unquoted(argument) for argument in arguments if argument.startswith(f"{key}=")]
        folder = Path(typed[-1] if typed else "outputs")
        if why := command_line.unwritable(folder):
            mistakes.append(Mistake(key, folder, f"cannot be written: {why}", f"{key}=FOLDER puts runs elsewhere"))
            break
    return mistakes


def report(mistakes: Sequence[Mistake], of: str = "") -> None:
    """Prints what is wrong with a configuration, or a job's, to the standard error."""
    tell(mistakes, f" in the configuration{' of ' + of if of else ''}; nothing was trained")


def _remove_untrained(folder: Path) -> None:
    """Removes what Hydra made for a run that never began, and only that; what another process is at stays."""
    with suppress(Timeout), FileLock(folder / "lock", timeout=0):
        if {path.name for path in folder.iterdir()} <= {".hydra", "train.log", "lock"}:
            for handler in logging.getLogger().handlers[:]:
                if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(folder):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
