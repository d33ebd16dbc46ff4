"""Worker processes that live for the whole run; one that is lost is replaced."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from socket import socket, socketpair

from fedlit.core.errors import LostWorkers
from fedlit.core.messages import Job, Result, ServerState
from fedlit.executors.dispatch import JobBatch, Task
from fedlit.executors.transport import Buffers, decode_message, encode_message, receive, send

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""How many processes may end one after the other while they start."""

BLOCKED_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
"""Signals that are the parent's to act on, whoever they were sent to."""

MALLOC_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
"""What glibc is told in a worker: it otherwise gives memory back after each client, and faults it in anew for the next, which
took a quarter of the time of small clients."""


class WorkerStartError(Exception):
    """A process that could not make its worker."""


class WorkerProcess:
    """One worker process, and the job it is at.

    Args:
        first: what it needs before its first job.
        shelf: descriptor of the file that it maps.
        gpu: the GPU that it sees; None for what this process sees.
    """

    def __init__(self, first: Buffers, shelf: int, gpu: str | None) -> None:
        self.gpu = gpu
        self.line, theirs = socketpair()
        program, path = str(Path(__file__).with_name("worker_process.py")), json.dumps(sys.path)
        command = [sys.executable, "-P", program, str(theirs.fileno()), str(os.getpid()), path]
        environment = {**MALLOC_SETTINGS, **os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}
        with (
            theirs,
            _blocked(BLOCKED_SIGNALS),
        ):  # it inherits what is blocked: Lightning would put handlers in place of ignoring
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno(), shelf],
                env=environment,
                stdin=subprocess.DEVNULL,
                process_group=0,  # its own, which is ended with all that its DataLoaders started
            )
        self.at: Task | None = None
        self.ready, self.since, self._state = False, 0.0, -1
        self._send(first)

    def give(self, task: Task) -> None:
        """Sends a job, and the state if the process does not have it yet."""
        call, self.at, self.since = task.batch, task, time.monotonic()
        fresh = self._state != call.number
        self._send(encode_message((call.job(task), fresh)))
        if fresh:
            self._send(call.state)
            self._state = call.number

    def answer(self) -> Buffers | None:
        """What it says; None if it is gone."""
        try:
            return receive(self.line)
        except (EOFError, OSError):
            return None

    def begin(self, parts: Buffers | None) -> None:
        """Takes in its first answer.

        Raises:
            CannotStart: with what it says, or that it is gone.
        """
        said, what = ("failed", "a process ended while it started") if parts is None else decode_message(parts)
        if said != "ready":
            raise WorkerStartError(what)
        self.ready = True

    def end(self) -> None:
        """Ends the process, busy or not, and what it started."""
        self.line.close()
        with suppress(ProcessLookupError, PermissionError):  # all of them are gone
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _send(self, parts: Buffers) -> None:
        with suppress(OSError):  # it is gone, which its closed end tells next
            send(self.line, parts)


class WorkerPool:
    """The processes of a run.

    Args:
        shelf: descriptor of the file that they map.
        timeout: seconds after which a job's process is given up; None for never.
    """

    def __init__(self, shelf: int, timeout: float | None) -> None:
        self._shelf, self._timeout = shelf, timeout
        self._first: Buffers = ()
        self._children: list[WorkerProcess] = []
        self._state: tuple[ServerState | None, Buffers, int] = (
            None,
            (),
            0,
        )  # the last one, as it is sent, and its number
        self._failed_starts = 0

    def begin(self, first: Buffers, gpus: Sequence[str | None]) -> None:
        """Starts a process for each of the GPUs, and waits until all are ready.

        Raises:
            CannotStart: with what one of them says.
        """
        self._first = first
        for gpu in gpus:
            self._children.append(WorkerProcess(first, self._shelf, gpu))
        for child in self._children:
            child.begin(child.answer())

    def end(self) -> None:
        """Ends all processes."""
        while self._children:
            self._children.pop().end()

    def execute(self, jobs: Iterable[Job], state: ServerState) -> Iterator[Result]:
        """The results in the order of the jobs; at most twice as many jobs as processes are out or wait to be taken.

        Raises:
            Exception: what a job raised.
        """
        if self._state[0] is not state:  # the one of a round's evaluation is the next round's: it is sent once
            self._state = (state, encode_message(replace(state, private={})), self._state[2] + 1)
        call = JobBatch(jobs, *self._state[1:])
        for index in range(call.total):
            call.next = index
            while index not in call.done:
                self._dispatch(call)
                self._listen(call)
                if call.error is not None:
                    raise call.error
            yield call.done.pop(index)

    def _dispatch(self, call: JobBatch) -> None:
        for child in self._children:
            if child.ready and child.at is None and call.tasks:
                if call.tasks[0].index >= call.next + 2 * len(self._children):
                    return
                child.give(call.tasks.popleft())

    def _listen(self, call: JobBatch) -> None:
        """Takes in what has come, at least one answer; whoever gave it has its next job before it is unpacked."""
        for child, parts in self._heard():
            task, child.at = child.at, None
            if parts is None:
                self._replace(child)
            elif task is None:
                child.begin(parts)
                self._failed_starts = 0
            if task is not None and parts is None:
                task.batch.lose(task)
            self._dispatch(call)
            if task is not None and parts is not None:
                task.batch.take(task, parts)

    def _heard(self) -> list[tuple[WorkerProcess, Buffers | None]]:
        """Who answered, and what; None of a process that is gone, or that has been at its job for too long."""
        waited = {child.line: child for child in self._children if child.at is not None or not child.ready}
        oldest = min((child for child in waited.values() if child.at is not None), key=_since, default=None)
        left = None
        if self._timeout is not None and oldest is not None:
            left = max(0.0, oldest.since + self._timeout - time.monotonic())
        came: list[tuple[WorkerProcess, Buffers | None]] = []
        for line in wait(list(waited), left):
            assert isinstance(line, socket)
            came.append((waited[line], waited[line].answer()))
        if not came and oldest is not None:
            log.warning("a worker process gave no answer for %.0f s", self._timeout)
            came.append((oldest, None))
        return came

    def _replace(self, child: WorkerProcess) -> None:
        child.end()
        status = child.process.returncode
        self._failed_starts += not child.ready
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise LostWorkers(
                f"{MAX_FAILED_STARTS} worker processes ended while they started, the last with status {status}"
            )
        log.warning("worker process %d is lost, with status %s; another takes its place", child.process.pid, status)
        self._children[self._children.index(child)] = WorkerProcess(self._first, self._shelf, child.gpu)


def _since(child: WorkerProcess) -> float:
    return child.since


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
