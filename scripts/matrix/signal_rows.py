"""Signals to a run, and the planned crash of the server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedlit.server.checkpoint.folders import committed_rounds
from matrix.commands import (
    OVERRIDES,
    ROOT,
    cli_command,
    cli_run,
    expect_exit,
    expect_resume,
    reference_cli_run,
    split,
)
from matrix.forks import run_in_fork, signals_in_fit
from matrix.lab import Rows, Tiny, expect, expect_same, read_run

ROWS = Rows()


@ROWS("SIGTERM in a fit, resumed by the printed command", "exit 143, no failure, same bits", slow=True)
def terminated(folder: Path) -> str:
    def task() -> None:
        with signals_in_fit(3, 1, signal.SIGTERM):
            cli_command(*OVERRIDES, f"hydra.run.dir={folder / 'run'}")()

    output = expect_exit(143, task).output
    (command,) = re.findall(r"^  (.*resume=.*)$", output, re.MULTILINE)
    environment, (*_, resume) = split(command)
    expect(environment == {}, f"the printed command sets {environment}: a run that this user made needs no variable")
    expect(committed_rounds(folder / "run") == [1, 2], "the checkpoints are not those of rounds 1 and 2")
    expect_exit(0, cli_command(resume))
    expect_same(read_run(folder / "run"), reference_cli_run())
    end = expect_exit(0, cli_run(folder / "run", resume=True))
    expect("is finished after 4 rounds" in end.output, f"printed {end.output}")
    return "a second resume prints that the run is finished"


@ROWS("SIGINT in a fit", "exit 130, no failure, same bits")
def interrupted(folder: Path) -> str:
    _expect_signal_exit(folder / "run", 130, signal.SIGINT)
    return ""


@ROWS("SIGUSR1 in a fit", "exit 143, no failure, same bits")
def warned(folder: Path) -> str:
    _expect_signal_exit(folder / "run", 143, signal.SIGUSR1)
    return ""


@ROWS("a second signal", "stops at once, without harm")
def twice(folder: Path) -> str:
    _expect_signal_exit(folder / "run", 143, signal.SIGTERM, signal.SIGTERM)
    return ""


def _expect_signal_exit(folder: Path, status: int, *numbers: int) -> None:
    def task() -> None:
        with signals_in_fit(3, 1, *numbers):
            cli_run(folder)()

    expect_exit(status, task)
    expect_resume(folder, 2)


@ROWS("a signal that user code swallows", "stops nevertheless, same bits")
def swallowed(folder: Path) -> str:
    cases = ((signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1))  # Lightning acts on SIGTERM at once
    for number, status, rounds in cases:
        here = folder / str(status)
        expect_exit(status, lambda here=here, number=number: _run_and_swallow(here, number))
        expect_resume(here, rounds)
    return "SIGINT after the round, SIGTERM within it"


def _run_and_swallow(folder: Path, number: int) -> None:
    step = Tiny.training_step

    def swallow(self: Tiny, batch: Any, batch_idx: int) -> Any:
        try:
            return step(self, batch, batch_idx)
        except BaseException:  # as some user code does
            return step(self, batch, batch_idx)

    with signals_in_fit(2, 1, number), patch.object(Tiny, "training_step", swallow):
        cli_run(folder)()


@ROWS("faults.server kills at a step of a checkpoint", "resume ignores it, same bits")
def planned(folder: Path) -> str:
    crash = "faults.server={_target_: fedlit.simulation.ServerCrash, round: 3, step: %s}"
    for step in ("mkdir", "append"):
        end = run_in_fork(cli_run(folder / step, crash % step))
        expect(end.status == -signal.SIGKILL, f"{step}: ended with status {end.status}: {end.output}")
        expect_exit(0, cli_run(folder / step, crash % step, resume=True))
        expect_same(read_run(folder / step), reference_cli_run(), step)
    return ""


@ROWS("SIGTERM to the real command, elsewhere", "exit 143, the printed command resumes, same bits", slow=True)
def elsewhere(folder: Path) -> str:
    base = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]), "PYTHONHASHSEED": "7",
            "LC_ALL": "C", "TZ": "Asia/Kathmandu"}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "fedlit.train",
        *OVERRIDES,
        "schedule.rounds=5000",
        f"hydra.run.dir={folder / 'run'}",
    ]
    process = subprocess.Popen(command, env=base, cwd=folder, stdout=-3, stderr=-1, text=True)
    journal = folder / "run" / "rounds.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[1]
    expect(process.returncode == 143, f"ended with status {process.returncode}: {output}")
    (line,) = re.findall(r"^  (.*resume=.*)$", output, re.MULTILINE)
    environment, words = split(line)
    expect(words[:3] == ["python", "-m", "fedlit.train"], f"the printed command is {line}")
    rounds = f"schedule.rounds={committed_rounds(folder / 'run')[-1] + 2}"
    expect_exit(0, cli_command(words[3], rounds, **environment))
    expect_exit(0, cli_run(folder / "here", rounds))
    expect_same(read_run(folder / "run"), read_run(folder / "here"))
    return "another hash seed, locale, time zone"
