"""Faults of a run of the command line: its folder, a second process, a changed configuration."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedlit.server.checkpoint.disk import DiskCheckpointer
from matrix.commands import (
    ALLOW,
    OVERRIDES,
    cli_command,
    cli_run,
    expect_exit,
    expect_resume,
    interrupted_run,
    reference_cli_run,
)
from matrix.forks import End, run_in_fork, signals_in_fit
from matrix.lab import Rows, expect, expect_same, read_run

ROWS = Rows()


@ROWS("two processes on one run folder", "the second one refuses, the first is unharmed", slow=True)
def two(folder: Path) -> str:
    ends: list[End] = []

    def task() -> None:
        from fedlit.experiment import runner

        original = runner.build_run

        def build(*args: Any) -> Any:  # the first process has the lock already
            ends.append(run_in_fork(cli_command(*OVERRIDES, f"hydra.run.dir={folder / 'run'}")))
            run = original(*args)
            expect(ends[0].status == 2, f"ended with {ends[0].status}: {ends[0].output}")
            expect("is in use by another process" in ends[0].output, f"printed {ends[0].output}")
            return run

        with patch.object(runner, "build_run", build):
            cli_command(*OVERRIDES, f"hydra.run.dir={folder / 'run'}")()

    expect_exit(0, task)
    expect_same(read_run(folder / "run"), reference_cli_run())
    return ""


@ROWS("a run folder that is in use", "a new run refuses")
def used(folder: Path) -> str:
    expect_exit(143, lambda: interrupted_run(folder / "run"))
    end = run_in_fork(cli_run(folder / "run"))
    expect(end.status == 1 and "holds a run already" in end.output, f"ended with status {end.status}: {end.output}")
    expect_resume(folder / "run", 2)
    return ""


@ROWS("a changed configuration", "refused field by field, exit 2", slow=True)
def changed(folder: Path) -> str:
    expect_exit(143, lambda: interrupted_run(folder / "run"))
    end = expect_exit(
        2, cli_command(f"resume={folder / 'run'}", "seed=7", "data.batch_size=3", "schedule.rounds=9", **ALLOW)
    )
    expect("2 errors in the configuration" in end.output, f"printed {end.output}")
    for line in ("seed=7", "was 42 when the run began", "data.batch_size=3", "was 10 when the run began"):
        expect(line in end.output, f"{line} is not in {end.output}")
    expect("schedule.rounds" not in end.output, "more rounds are refused")
    expect_resume(folder / "run", 2)
    return ""


@ROWS("resume with more rounds", "as if the run had them from the start")
def further(folder: Path) -> str:
    expect_exit(0, cli_run(folder / "run", "schedule.rounds=2"))
    expect_exit(0, cli_run(folder / "run", resume=True))
    result, expected = read_run(folder / "run"), reference_cli_run()
    expect(
        result["state"] == expected["state"] and result["files"] == expected["files"],
        "the results are not bit-identical",
    )
    return ""


@ROWS("TensorBoard's folder is gone, or a file", "a warning, the run continues", slow=True)
def no_tensorboard(folder: Path) -> str:
    def task() -> None:
        original = DiskCheckpointer.commit

        def remove_and_commit(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
            if state.round == 2:
                shutil.rmtree(folder / "run" / "tensorboard")
                (folder / "run" / "tensorboard").touch()
            original(self, state, *rest)

        with patch.object(DiskCheckpointer, "commit", remove_and_commit):
            cli_run(folder / "run", "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard")()

    output = expect_exit(0, task).output
    expect(output.count("TensorBoard failed and is no longer called") == 1, f"printed {output}")
    expect("Traceback" not in output, f"printed {output}")
    expect_same(read_run(folder / "run"), reference_cli_run())
    (folder / "other").mkdir()
    (folder / "other" / "tensorboard").touch()
    end = expect_exit(
        0, cli_run(folder / "other", "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard")
    )
    expect("TensorBoard failed and is no longer called" in end.output, f"printed {end.output}")
    failed = json.loads((folder / "other" / "summary.json").read_text())["observers_failed"]
    expect(list(failed) == ["TensorBoard"], f"observers_failed in the summary: {failed}")
    expect_same(read_run(folder / "other"), reference_cli_run())
    return ""


@ROWS("TensorBoard of a resumed run", "no step twice, none missing", slow=True)
def tensorboard(folder: Path) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = "+observers.tensorboard._target_=fedlit.experiment.observers.TensorBoard"

    def task() -> None:
        with signals_in_fit(3, 1, signal.SIGTERM):
            cli_run(folder / "run", more)()

    expect_exit(143, task)
    expect_exit(0, cli_run(folder / "run", more, resume=True))
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    expect(steps == [1, 2, 3, 4], f"steps {steps}")
    return ""


@ROWS("soak: many rounds of tiny clients", "memory, descriptors, threads do not grow", slow=True)
def soak(folder: Path) -> str:
    rounds, clients, first = SOAK
    overrides = (
        f"data.clients={clients} data.samples=5 schedule.clients_per_round={clients} schedule.eval_every={rounds}"
    )
    measurements: list[tuple[float, int, int]] = []

    def task() -> None:
        original = DiskCheckpointer.commit

        def commit_and_measure(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
            original(self, state, *rest)
            if state.round in (first, rounds):
                measurements.append(_resources())

        with patch.object(DiskCheckpointer, "commit", commit_and_measure):
            cli_run(folder / "run", *overrides.split(), f"schedule.rounds={rounds}")()
        before, after = measurements
        expect(after[0] - before[0] <= 2.0, f"{after[0] - before[0]:.1f} MB more")
        expect(after[1:] == before[1:], f"descriptors and threads {before[1:]}, then {after[1:]}")
        print(f"{after[0] - before[0]:+.1f} MB")

    output = expect_exit(0, task, seconds=3600).output
    return f"{rounds} of {clients}, {output.split()[-2]} MB from round {first} on"


def _resources() -> tuple[float, int, int]:
    """Return the resident megabytes, descriptors and threads of this process.

    Returns:
        (megabytes, descriptors, threads).
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    size = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return size, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


SOAK = (500, 20, 100)
"""Rounds, clients in each, and the round from which on nothing may grow."""
