"""`python -m fedlit.train`: trains a federated model as the configuration says."""

from __future__ import annotations

import io
import json
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
from pathlib import Path
from typing import Any

import hydra
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fedlit import STARTED, command_line
from fedlit.mistakes import Mistake, Mistakes

log = logging.getLogger("fedlit")

ASKS_HYDRA = {"--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
ASKS_HYDRA |= {"--cfg", "-c", "--resolve", "--package", "-p"}
"""Flags with which nothing is trained."""

_failed: list[str] = []  # jobs of this process's multirun that did not come to their end


@hydra.main(version_base="1.3", config_path=str(command_line.conf()), config_name="config")
def _job(config: DictConfig) -> float | None:
    """One run, or one job of a multirun, which never raises: that would end the others."""
    from fedlit.build import plain  # here: Lightning takes seconds, and a mistyped name is told at once
    from fedlit.faults import LostRounds
    from fedlit.running import NoRoom, train
    from fedlit.signals import Stopped
    from fedlit.worker import ClientFailed

    settings = HydraConfig.get()
    folder, multirun = Path(settings.runtime.output_dir), settings.mode == RunMode.MULTIRUN
    started, values = time.time() if multirun else STARTED, {}
    try:
        values = plain(config)
        result = train(values, folder, settings.runtime.choices, started, settings.overrides.task)
        if config.check:
            _remove_untrained(folder)
        return result
    except Stopped as stopped:
        _tell_how_to_go_on(f"stopped by {stopped}", folder, values)
        if callable(stopped.found) and stopped.number == signal.SIGUSR1:  # such as submitit's, which requeues the job
            stopped.found(stopped.number, None)
        let_go(stopped)
        sys.exit(stopped.status)
    except (NoRoom, ClientFailed, LostRounds) as error:
        if config.traceback:
            traceback.print_exc()
        _tell_how_to_go_on(str(error), folder, values, " once that is mended")
        if not multirun:
            sys.exit(1)
        _fail(folder, [str(error)])
    except Mistakes as mistakes:
        if config.traceback:
            traceback.print_exc()
        report(mistakes.found, f"job {settings.job.num} ({settings.job.override_dirname})" if multirun else "")
        if not multirun:
            _remove_untrained(folder)
            sys.exit(2)
        _fail(folder, [str(mistake) for mistake in mistakes.found])
    except Exception as error:
        if not multirun or config.traceback:
            raise
        log.exception("job %s failed", settings.job.num)
        _fail(folder, [f"{type(error).__name__}: {error}"])
    return None


def main() -> None:
    """The command. Exit status 2 for a mistake in what was typed, 1 for a failure."""
    sys.path.insert(0, os.getcwd())  # so that `model._target_=my_file.MyModule` is found by the console script too
    arguments = sys.argv[1:]
    if any(argument.lstrip("+").startswith("resume=") for argument in arguments):
        from fedlit.resume import rewritten

        try:
            sys.argv[1:] = arguments = rewritten(arguments)
        except Mistakes as found:
            report(found.found)
            sys.exit(2)
    if not ASKS_HYDRA & {argument.partition("=")[0] for argument in arguments}:
        mistakes = _mistakes(arguments)
        if mistakes:
            report(mistakes)
            sys.exit(2)
    if {"--help", "-h"} & set(arguments):
        _help()
    else:
        _job()
    if _failed:
        print(f"{len(_failed)} of the jobs failed:\n  " + "\n  ".join(_failed), file=sys.stderr)
        sys.exit(1)


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
    """Prints mistakes, a paragraph each, to the standard error."""
    count = f"{len(mistakes)} mistakes" if len(mistakes) != 1 else "1 mistake"
    print(f"fedlit: {count} in the configuration{' of ' + of if of else ''}; nothing was trained", file=sys.stderr)
    for mistake in mistakes:
        name = (
            f"{mistake.key}={mistake.given}"
            if mistake.key and mistake.given != ""
            else mistake.key or str(mistake.given)
        )
        print(f"  {name}\n      {mistake.allowed}", file=sys.stderr)
        if mistake.remedy:
            print(f"      {mistake.remedy}", file=sys.stderr)


def _fail(folder: Path, reasons: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.json").write_text(json.dumps({"reasons": reasons}) + "\n")
    _failed.append(f"{folder}: {reasons[0]}")


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
