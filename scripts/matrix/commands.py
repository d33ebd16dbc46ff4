"""Runs of the command line, in processes of their own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedlit.cli import train
from fedlit.experiment.runner import DiskFull, run_experiment
from fedlit.experiment.signals import Interrupted
from fedlit.server.checkpoint.disk import DiskCheckpointer
from matrix.forks import End, run_in_fork, signals_in_fit
from matrix.lab import expect, expect_same, read_run

ROOT = Path(__file__).parent.parent.parent
OVERRIDES_TEXT = (
    "data=synthetic data.clients=4 data.samples=20 data.dimension=4 data.classes=3 data.val_samples=20 "
    "data.test_samples=0 partition=natural model=custom model._target_=matrix.lab.Tiny observers=none "
    "monitor.name=val/loss monitor.mode=min schedule.rounds=4 schedule.clients_per_round=2 schedule.local_steps=1 "
    "schedule.client_state=keep executor=inline"
)
OVERRIDES = OVERRIDES_TEXT.split()
ALLOW = {"FEDLIT_ALLOW": "matrix"}


def cli_command(*arguments: str, **environment: str) -> Callable[[], None]:
    """Return a function that runs `fedlit.train` and ends with its exit status."""

    def task() -> None:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()  # this process may have run a command before
        sys.argv[1:] = arguments
        os.environ.update(environment)
        train.main()

    return task


@cache
def compose_config(*more: str) -> dict[str, Any]:
    """Return the configuration of OVERRIDES and more overrides."""
    from hydra import compose, initialize_config_dir

    from fedlit.cli.command_line import config_dir
    from fedlit.experiment.config.plain import to_plain

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return to_plain(compose("config", [*OVERRIDES, *more]))


def cli_run(folder: Path, *more: str, resume: bool = False) -> Callable[[], None]:
    """Return a function that runs an experiment without Hydra, which takes a second.

    The function ends with the exit status of the command line.
    """

    def task() -> None:
        folder.mkdir(exist_ok=True)
        config = {**compose_config(*more), "resume": str(folder) if resume else None}
        try:
            run_experiment(config, folder, {}, time.time(), [*OVERRIDES, *more])
        except Interrupted as interrupted:
            sys.exit(interrupted.status)
        except DiskFull as error:
            print(error)
            sys.exit(1)

    return task


def interrupted_run(folder: Path) -> None:
    """Run an experiment that gets SIGTERM in round 3; two rounds have a checkpoint."""
    with signals_in_fit(3, 1, signal.SIGTERM):
        cli_run(folder)()


@cache
def reference_cli_run() -> dict[str, Any]:
    """Return the files of a run without a fault; see `read_run`."""
    with TemporaryDirectory() as folder:
        expect_exit(0, cli_run(Path(folder) / "run"))
        return read_run(Path(folder) / "run")


def expect_exit(status: int, task: Callable[[], Any], is_quiet: bool = True, seconds: int = 120) -> End:
    """Raise Broken if a process ends with another status, or prints a traceback."""
    end = run_in_fork(task, seconds)
    expect(end.status == status, f"ended with status {end.status}, not {status}: {end.output}")
    expect(not is_quiet or "Traceback" not in end.output, f"printed a traceback: {end.output}")
    return end


def expect_resume(folder: Path, rounds: int) -> None:
    """Resume a run; raise Broken unless it has `rounds` rounds without a failure and ends bit-identical.

    Args:
        folder: folder of an interrupted run.
        rounds: number of rounds with a checkpoint.
    """
    saved = DiskCheckpointer(folder).load()
    expect(
        saved is not None and saved.state.round == rounds,
        f"{0 if saved is None else saved.state.round} rounds have a checkpoint",
    )
    assert saved is not None
    expect(
        not any(record["failures"] for record in saved.records), "the interruption is recorded as a failure of a client"
    )
    expect_exit(0, cli_run(folder, resume=True))
    expect_same(read_run(folder), reference_cli_run())
    expect((folder / "summary.json").is_file(), "the run has no summary")


def split(command: str) -> tuple[dict[str, str], list[str]]:
    """Split a printed command.

    Returns:
        (environment, words): the variables before the command, and the words of the command.
    """
    words = shlex.split(command)
    environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    return environment, words[len(environment) :]
