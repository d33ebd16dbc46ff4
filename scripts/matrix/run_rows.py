"""What may befall a run as it is typed: signals, its folder, a second process, a changed configuration."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from fedlit import train
from fedlit.checkpoint import Checkpoints
from fedlit.commits import committed
from fedlit.running import NoRoom
from fedlit.running import train as begin
from fedlit.signals import Stopped
from matrix.lab import End, Rows, Tiny, forked, left, must, same, striking

ROWS = Rows()
ROOT = Path(__file__).parent.parent.parent
WORDS = (
    "data=synthetic data.clients=4 data.samples=20 data.dimension=4 data.classes=3 data.val_samples=20 "
    "data.test_samples=0 partition=natural model=custom model._target_=matrix.lab.Tiny observers=none "
    "monitor.name=val/loss monitor.mode=min schedule.rounds=4 schedule.clients_per_round=2 schedule.local_steps=1 "
    "schedule.client_state=keep executor=inline"
)
TYPED = WORDS.split()
LEAVE = {"FEDLIT_ALLOW": "matrix"}
BOARD = "+observers.tensorboard._target_=fedlit.observers.TensorBoard"


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

    from fedlit.build import plain
    from fedlit.command_line import conf

    with initialize_config_dir(str(conf()), version_base="1.3"):
        return plain(compose("config", [*TYPED, *more]))


def started(folder: Path, *more: str, resume: bool = False) -> Callable[[], None]:
    """The run without Hydra, which takes a second; a signal's status is that of the process."""
    config = {**composed(*more), "resume": str(folder) if resume else None}  # here: a fork would compose it each time

    def go() -> None:
        folder.mkdir(exist_ok=True)
        try:
            begin(config, folder, {}, time.time(), [*TYPED, *more])
        except Stopped as stopped:
            sys.exit(stopped.status)
        except NoRoom as error:
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
    saved = Checkpoints(folder).load()
    must(
        saved is not None and saved.state.round == kept, f"{0 if saved is None else saved.state.round} rounds were kept"
    )
    assert saved is not None
    must(not any(record["failures"] for record in saved.records), "it is booked as a client's failure")
    ended(0, started(folder, resume=True))
    same(left(folder), whole())
    must((folder / "summary.json").is_file(), "it has no summary")


@ROWS("SIGTERM in a fit, resumed as it says", "exit 143, nothing booked, same bits", slow=True)
def terminated(folder: Path) -> str:
    said = ended(143, _struck(typed(*TYPED, f"hydra.run.dir={folder / 'run'}"), signal.SIGTERM)).said
    (command,) = re.findall(r"^  (.*resume=.*)$", said, re.MULTILINE)
    environment, (*_, resume) = _split(command)
    must(environment == LEAVE, f"says to allow {environment}")
    must(committed(folder / "run") == [1, 2], "two rounds were kept")
    ended(0, typed(resume, **LEAVE))
    same(left(folder / "run"), whole())
    end = ended(0, started(folder / "run", resume=True))
    must("is finished after 4 rounds" in end.said, f"said {end.said}")
    return "goes on by the command that it prints; then says it is finished"


def _split(command: str) -> tuple[dict[str, str], list[str]]:
    words = shlex.split(command)
    environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    return environment, words[len(environment) :]


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
    ended(status, _struck(started(folder), *numbers))
    goes_on(folder, 2)


def _struck(task: Callable[[], Any], *numbers: int) -> Callable[[], None]:
    """A run that is hit by signals in its third round, in the fit of the second client."""

    def go() -> None:
        with striking(3, 1, *numbers):
            task()

    return go


@ROWS("a signal that user code swallows", "stops all the same, same bits")
def swallowed(folder: Path) -> str:
    for number, status, kept in ((signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1)):  # Lightning heeds the one at once
        here = folder / str(status)
        task = started(here)
        ended(status, lambda task=task, number=number: _deaf(task, number))
        goes_on(here, kept)
    return "SIGINT after the round, SIGTERM within it"


def _deaf(task: Callable[[], Any], number: int) -> None:
    step = Tiny.training_step

    def deaf(self: Tiny, batch: Any, batch_idx: int) -> Any:
        try:
            return step(self, batch, batch_idx)
        except BaseException:  # as some code does
            return step(self, batch, batch_idx)

    with striking(2, 1, number), patch.object(Tiny, "training_step", deaf):
        task()


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[bool]:
    """A small file system of its own; False where it may not be mounted."""
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode
        == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@ROWS("ENOSPC on a small tmpfs", "exit 1, the reason; with room same bits", slow=True)
def no_space(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=1m") as mounted:
        for pages in (0, 3, None):
            here = folder / "disk" / f"run-{pages}"
            task = typed(*TYPED, f"hydra.run.dir={here}") if pages == 0 else started(here)
            end = forked(lambda here=here, pages=pages, task=task: _until_full(task, here, pages, mounted))
            (folder / "disk" / "filler").unlink(missing_ok=True)
            where = f"{pages} pages left"
            must(end.status == 1, f"{where}: ended with status {end.status}: {end.said}")
            must("cannot be written any more: No space left" in end.said, f"{where}: said {end.said}")
            must("Traceback" not in end.said, f"{where}: {end.said}")
            if pages == 0:
                (command,) = re.findall(r"^  (.*resume=.*)$", end.said, re.MULTILINE)
                must(_split(command) == (LEAVE, ["python", "-m", "fedlit.train", f"resume={here}"]), f"says {command}")
            ended(0, started(here, resume=True))
            same(left(here), whole(), where)
    return "in a commit and after it" if mounted else "made up: no tmpfs may be mounted here"


def _until_full(task: Callable[[], Any], folder: Path, pages: int | None, mounted: bool) -> None:
    """A run whose disk is full but for so many pages when its third round is to be kept; None: when it was."""
    commit = Checkpoints.commit

    def full(self: Checkpoints, state: Any, *rest: Any) -> None:
        if state.round == 3 and not mounted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if state.round == 3 and pages is not None:
            _fill(folder.parent / "filler", pages)
        commit(self, state, *rest)
        if state.round == 3 and pages is None:
            _fill(folder.parent / "filler", 0)

    with patch.object(Checkpoints, "commit", full):
        task()


def _fill(path: Path, pages: int) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - 4096 * pages))


@ROWS("a read-only run folder", "exit 2 before round 1", slow=True)
def read_only(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=4m") as mounted:
        here = folder / "disk" / "run"
        ended(143, _struck(started(here), signal.SIGTERM))
        (folder / "file").touch()
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(folder / "disk")], check=True)
        targets = [here, folder / "disk" / "new"] if mounted else [folder / "file" / "run"]
        for target in targets:
            end = ended(2, typed(f"resume={target}" if target == here else f"hydra.run.dir={target}", **LEAVE))
            must(f"{target}" in end.said and "cannot be written" in end.said, f"said {end.said}")
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(folder / "disk")], check=True)
            goes_on(here, 2)
    return "new and resumed" if mounted else "below a file: no tmpfs may be mounted here"


@ROWS("two processes on one run folder", "the second refuses, first unharmed", slow=True)
def two(folder: Path) -> str:
    ends: list[End] = []

    def go() -> None:
        from fedlit import running

        build = running.build

        def building(*given: Any) -> Any:  # while the first one prepares itself, and when it trains
            ends.append(forked(typed(*TYPED, f"hydra.run.dir={folder / 'run'}")))
            made = build(*given)
            must(ends[0].status == 2, f"ended with {ends[0].status}: {ends[0].said}")
            must("is another process's at the moment" in ends[0].said, f"said {ends[0].said}")
            return made

        with patch.object(running, "build", building):
            first()

    first = started(folder / "run")
    ended(0, go)
    same(left(folder / "run"), whole())
    return ""


@ROWS("a run folder that is used", "a new run refuses")
def used(folder: Path) -> str:
    ended(143, _struck(started(folder / "run"), signal.SIGTERM))
    end = forked(started(folder / "run"))
    must(end.status == 1 and "holds a run already" in end.said, f"ended with status {end.status}: {end.said}")
    goes_on(folder / "run", 2)
    return ""


@ROWS("a changed configuration", "refused field by field, exit 2", slow=True)
def changed(folder: Path) -> str:
    ended(143, _struck(started(folder / "run"), signal.SIGTERM))
    end = ended(2, typed(f"resume={folder / 'run'}", "seed=7", "data.batch_size=3", "schedule.rounds=9", **LEAVE))
    must("2 mistakes" in end.said, f"said {end.said}")
    for line in ("seed=7", "was 42 when the run began", "data.batch_size=3", "was 10 when the run began"):
        must(line in end.said, f"{line} is not in {end.said}")
    must("schedule.rounds" not in end.said, "more rounds are refused")
    goes_on(folder / "run", 2)
    return ""


@ROWS("resume with more rounds", "as if they had been asked for before")
def further(folder: Path) -> str:
    ended(0, started(folder / "run", "schedule.rounds=2"))
    ended(0, started(folder / "run", resume=True))
    found, wanted = left(folder / "run"), whole()
    must(found["state"] == wanted["state"] and found["files"] == wanted["files"], "other bits")
    return ""


@ROWS("TensorBoard's folder is gone, or a file", "the run goes on, and says so", slow=True)
def no_tensorboard(folder: Path) -> str:
    def go() -> None:
        commit = Checkpoints.commit

        def without(self: Checkpoints, state: Any, *rest: Any) -> None:
            if state.round == 2:
                shutil.rmtree(folder / "run" / "tensorboard")
                (folder / "run" / "tensorboard").touch()
            commit(self, state, *rest)

        with patch.object(Checkpoints, "commit", without):
            first()

    first = started(folder / "run", BOARD)
    ended(0, go, quiet=False)  # its thread says what it died of
    same(left(folder / "run"), whole())
    (folder / "other").mkdir()
    (folder / "other" / "tensorboard").touch()
    end = ended(0, started(folder / "other", BOARD))
    must("TensorBoard failed and is told no more" in end.said, f"said {end.said}")
    failed = json.loads((folder / "other" / "summary.json").read_text())["observers_failed"]
    must(list(failed) == ["TensorBoard"], f"the summary says {failed}")
    same(left(folder / "other"), whole())
    return ""


@ROWS("TensorBoard of a resumed run", "no step doubled, none missing", slow=True)
def tensorboard(folder: Path) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ended(143, _struck(started(folder / "run", BOARD), signal.SIGTERM))
    ended(0, started(folder / "run", BOARD, resume=True))
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    must(steps == [1, 2, 3, 4], f"steps {steps}")
    return ""


@ROWS("faults.server kills at a step of a commit", "resume takes no notice, same bits")
def planned(folder: Path) -> str:
    crash = "faults.server={_target_: fedlit.crash.CrashServer, round: 3, step: %s}"
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
    command = [sys.executable, "-m", "fedlit.train", *TYPED, "schedule.rounds=5000", f"hydra.run.dir={folder / 'run'}"]
    process = subprocess.Popen(command, env=base, cwd=folder, stdout=-3, stderr=-1, text=True)
    journal = folder / "run" / "rounds.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    must(process.returncode == 143, f"ended with status {process.returncode}: {said}")
    (line,) = re.findall(r"^  (.*resume=.*)$", said, re.MULTILINE)
    environment, words = _split(line)
    must(words[:3] == ["python", "-m", "fedlit.train"], f"says to type {line}")
    rounds = f"schedule.rounds={committed(folder / 'run')[-1] + 2}"
    ended(0, typed(words[3], rounds, **environment))
    ended(0, started(folder / "here", rounds))
    same(left(folder / "run"), left(folder / "here"))
    return "another hash seed, locale, time zone"


@ROWS("soak: many rounds of tiny clients", "memory, descriptors, threads level", slow=True)
def soak(folder: Path) -> str:
    rounds, clients, first = SOAK
    words = f"data.clients={clients} data.samples=5 schedule.clients_per_round={clients} schedule.eval_every={rounds}"
    held: list[tuple[float, int, int]] = []

    def go() -> None:
        commit = Checkpoints.commit

        def noting(self: Checkpoints, state: Any, *rest: Any) -> None:
            commit(self, state, *rest)
            if state.round in (first, rounds):
                held.append(_held())

        with patch.object(Checkpoints, "commit", noting):
            task()
        before, after = held
        must(after[0] - before[0] <= 2.0, f"{after[0] - before[0]:.1f} MB more")
        must(after[1:] == before[1:], f"descriptors and threads {before[1:]}, then {after[1:]}")
        print(f"{after[0] - before[0]:+.1f} MB")

    task = started(folder / "run", *words.split(), f"schedule.rounds={rounds}")
    said = ended(0, go, seconds=3600).said
    return f"{rounds} of {clients}, {said.split()[-2]} MB from round {first} on"


def _held() -> tuple[float, int, int]:
    """Resident megabytes, descriptors, threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    size = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return size, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


SOAK = (500, 20, 100)
"""Rounds, clients in each, and from which round on nothing may grow."""
