"""What may befall a run that is asked to stop, or that is killed as planned."""

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

from fedlit.server.checkpoint.format import committed_rounds
from matrix.commands import LEAVE, ROOT, TYPED, ended, goes_on, split, started, typed, whole
from matrix.forks import forked, striking
from matrix.lab import Rows, Tiny, left, must, same

ROWS = Rows()


@ROWS("SIGTERM in a fit, resumed as it says", "exit 143, nothing booked, same bits", slow=True)
def terminated(folder: Path) -> str:
    def go() -> None:
        with striking(3, 1, signal.SIGTERM):
            typed(*TYPED, f"hydra.run.dir={folder / 'run'}")()

    said = ended(143, go).said
    (command,) = re.findall(r"^  (.*resume=.*)$", said, re.MULTILINE)
    environment, (*_, resume) = split(command)
    must(environment == LEAVE, f"says to allow {environment}")
    must(committed_rounds(folder / "run") == [1, 2], "two rounds were kept")
    ended(0, typed(resume, **LEAVE))
    same(left(folder / "run"), whole())
    end = ended(0, started(folder / "run", resume=True))
    must("is finished after 4 rounds" in end.said, f"said {end.said}")
    return "goes on by the command that it prints; then says it is finished"


@ROWS("SIGINT in a fit", "exit 130, nothing booked, same bits")
def interrupted(folder: Path) -> str:
    _signalled(folder / "run", 130, signal.SIGINT)
    return ""


@ROWS("SIGUSR1 in a fit", "exit 143, nothing booked, same bits")
def warned(folder: Path) -> str:
    _signalled(folder / "run", 143, signal.SIGUSR1)
    return ""


@ROWS("a second signal", "stops at once, without harm")
def twice(folder: Path) -> str:
    _signalled(folder / "run", 143, signal.SIGTERM, signal.SIGTERM)
    return ""


def _signalled(folder: Path, status: int, *numbers: int) -> None:
    def go() -> None:
        with striking(3, 1, *numbers):
            started(folder)()

    ended(status, go)
    goes_on(folder, 2)


@ROWS("a signal that user code swallows", "stops all the same, same bits")
def swallowed(folder: Path) -> str:
    for number, status, kept in ((signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1)):  # Lightning heeds the one at once
        here = folder / str(status)
        ended(status, lambda here=here, number=number: _deaf(here, number))
        goes_on(here, kept)
    return "SIGINT after the round, SIGTERM within it"


def _deaf(folder: Path, number: int) -> None:
    step = Tiny.training_step

    def deaf(self: Tiny, batch: Any, batch_idx: int) -> Any:
        try:
            return step(self, batch, batch_idx)
        except BaseException:  # as some code does
            return step(self, batch, batch_idx)

    with striking(2, 1, number), patch.object(Tiny, "training_step", deaf):
        started(folder)()


@ROWS("faults.server kills at a step of a commit", "resume takes no notice, same bits")
def planned(folder: Path) -> str:
    crash = "faults.server={_target_: fedlit.simulation.server_crash.CrashServer, round: 3, step: %s}"
    for step in ("mkdir", "append"):
        end = forked(started(folder / step, crash % step))
        must(end.status == -signal.SIGKILL, f"{step}: ended with status {end.status}: {end.said}")
        ended(0, started(folder / step, crash % step, resume=True))
        same(left(folder / step), whole(), step)
    return ""


@ROWS("SIGTERM to the real command, elsewhere", "exit 143, what it prints goes on, same bits", slow=True)
def elsewhere(folder: Path) -> str:
    base = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]), "PYTHONHASHSEED": "7",
            "LC_ALL": "C", "TZ": "Asia/Kathmandu"}  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "fedlit.cli.train",
        *TYPED,
        "schedule.rounds=5000",
        f"hydra.run.dir={folder / 'run'}",
    ]
    process = subprocess.Popen(command, env=base, cwd=folder, stdout=-3, stderr=-1, text=True)
    journal = folder / "run" / "rounds.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    must(process.returncode == 143, f"ended with status {process.returncode}: {said}")
    (line,) = re.findall(r"^  (.*resume=.*)$", said, re.MULTILINE)
    environment, words = split(line)
    must(words[:3] == ["python", "-m", "fedlit.train"], f"says to type {line}")
    rounds = f"schedule.rounds={committed_rounds(folder / 'run')[-1] + 2}"
    ended(0, typed(words[3], rounds, **environment))
    ended(0, started(folder / "here", rounds))
    same(left(folder / "run"), left(folder / "here"))
    return "another hash seed, locale, time zone"
