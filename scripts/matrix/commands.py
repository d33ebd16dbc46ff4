"""Runs as they are typed, in processes of their own."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedlit.cli import train
from fedlit.experiment.runner import DiskFull
from fedlit.experiment.runner import run_experiment as begin
from fedlit.experiment.signals import Interrupted
from fedlit.server.checkpoint.disk import DiskCheckpointer
from matrix.forks import End, forked
from matrix.lab import left, must, same

ROOT = Path(__file__).parent.parent.parent
WORDS = (
    "data=synthetic data.clients=4 data.samples=20 data.dimension=4 data.classes=3 data.val_samples=20 "
    "data.test_samples=0 partition=natural model=custom model._target_=matrix.lab.Tiny observers=none "
    "monitor.name=val/loss monitor.mode=min schedule.rounds=4 schedule.clients_per_round=2 schedule.local_steps=1 "
    "schedule.client_state=keep executor=inline"
)
TYPED = WORDS.split()
LEAVE = {"FEDLIT_ALLOW": "matrix"}


def typed(*arguments: str, **environment: str) -> Callable[[], None]:
    """The command, as a function that ends as the command does."""

    def go() -> None:
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()  # of the command that this process is at, if it is at one
        sys.argv[1:] = arguments
        os.environ.update(environment)
        train.main()

    return go


@cache
def composed(*more: str) -> dict[str, Any]:
    """The configuration of TYPED and more."""
    from hydra import compose, initialize_config_dir

    from fedlit.cli.command_line import config_dir
    from fedlit.experiment.config.build import to_plain

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return to_plain(compose("config", [*TYPED, *more]))


def started(folder: Path, *more: str, resume: bool = False) -> Callable[[], None]:
    """The run without Hydra, which takes a second; a signal's status is that of the process."""

    def go() -> None:
        folder.mkdir(exist_ok=True)
        config = {**composed(*more), "resume": str(folder) if resume else None}
        try:
            begin(config, folder, {}, time.time(), [*TYPED, *more])
        except Interrupted as stopped:
            sys.exit(stopped.status)
        except DiskFull as error:
            print(error)
            sys.exit(1)

    return go


@cache
def whole() -> dict[str, Any]:
    """What a run leaves that nothing happens to."""
    with TemporaryDirectory() as folder:
        ended(0, started(Path(folder) / "run"))
        return left(Path(folder) / "run")


def ended(status: int, task: Callable[[], Any], quiet: bool = True, seconds: int = 120) -> End:
    """Raises Broken if a process does not end with a status, or shows a traceback."""
    end = forked(task, seconds)
    must(end.status == status, f"ended with status {end.status}, not {status}: {end.said}")
    must(not quiet or "Traceback" not in end.said, f"showed a traceback: {end.said}")
    return end


def goes_on(folder: Path, kept: int) -> None:
    """Raises Broken if a run that stopped has not so many rounds, a failure in them, or ends with other bits."""
    saved = DiskCheckpointer(folder).load()
    must(
        saved is not None and saved.state.round == kept, f"{0 if saved is None else saved.state.round} rounds were kept"
    )
    assert saved is not None
    must(not any(record["failures"] for record in saved.records), "it is booked as a client's failure")
    ended(0, started(folder, resume=True))
    same(left(folder), whole())
    must((folder / "summary.json").is_file(), "it has no summary")


def split(command: str) -> tuple[dict[str, str], list[str]]:
    words = shlex.split(command)
    environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    return environment, words[len(environment) :]
