"""The worker processes of a run. A lost process is replaced."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from socket import socket, socketpair

from fedlit.core.errors import LostWorkers
from fedlit.core.messages import Job, Result, ServerState
from fedlit.executors.pool.dispatch import JobBatch, Merge, Task
from fedlit.executors.pool.fork_server import ForkedWorker, close_fork_server, fork_server
from fedlit.executors.pool.transport import Buffers, decode_message, encode_message, receive, send

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""Processes that may end during their start, one after the other."""

BLOCKED_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
"""Signals that only the parent handles, also if they are sent to a worker process."""

MALLOC_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
"""glibc settings of a worker process, which keep freed memory for the next client.

By default glibc returns the memory after each client, and page faults then take a quarter of the time of small clients.
"""


class WorkerStartError(Exception):
    """A worker process could not build its worker."""


class WorkerProcess:
    """One worker process and its current task.

    Args:
        setup: the message from which the process builds its worker.
        descriptor: descriptor of the file that the process maps.
        gpu: the GPU that the process sees; None for all devices that this process sees.
    """

    def __init__(self, setup: Buffers, descriptor: int, gpu: str | None) -> None:
        self.gpu = gpu
        self.connection, far_end = socketpair()
        environment = {**MALLOC_SETTINGS, **os.environ, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}
        with far_end:
            self.process = _start(far_end.fileno(), descriptor, environment)
        self.task: Task | None = None
        self.is_ready, self.assigned_at, self._state_number = False, 0.0, -1
        self._send(setup)

    def assign(self, task: Task) -> None:
        """Send a job, and the server state if the process lacks it."""
        batch, self.task, self.assigned_at = task.batch, task, time.monotonic()
        has_new_state = self._state_number != batch.number
        self._send(encode_message((batch.job(task), has_new_state)))
        if has_new_state:
            self._send(batch.state)
            self._state_number = batch.number

    def receive(self) -> Buffers | None:
        """Return the process's next message; None if the process has ended."""
        try:
            return receive(self.connection)
        except (EOFError, OSError):
            return None

    def confirm_start(self, parts: Buffers | None) -> None:
        """Check the first message of the process.

        Raises:
            WorkerStartError: if the process failed or ended; with the reason.
        """
        kind, content = ("failed", "a process ended while it started") if parts is None else decode_message(parts)
        if kind != "ready":
            raise WorkerStartError(content)
        self.is_ready = True

    def kill(self) -> None:
        """End the process, busy or not, and every process that it started."""
        self.connection.close()
        with suppress(ProcessLookupError, PermissionError):  # all of them have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _send(self, parts: Buffers) -> None:
        with suppress(OSError):  # the process has ended, which the next `receive` reports
            send(self.connection, parts)


class WorkerPool:
    """The worker processes of a run.

    Args:
        descriptor: descriptor of the file that the processes map.
        timeout_s: seconds after which a process that gives no answer is replaced; None for never.
        merge: see `Worker.merge`.
    """

    def __init__(self, descriptor: int, timeout_s: float | None, merge: Merge) -> None:
        self._descriptor, self._timeout_s, self._merge = descriptor, timeout_s, merge
        self._setup: Buffers = ()
        self._workers: list[WorkerProcess] = []
        self._state: ServerState | None = None
        self._encoded_state: Buffers = ()
        self._state_number = 0
        self._failed_starts = 0

    def start(self, setup: Buffers, gpus: Sequence[str | None]) -> None:
        """Start one process per entry of `gpus`; wait until all are ready.

        Raises:
            WorkerStartError: if one of them fails; with its reason.
        """
        self._setup = setup
        how = "new processes" if fork_server() is None else "forked from a copy of this process without threads"
        log.info("%d worker processes start, %s", len(gpus), how)
        for gpu in gpus:
            self._workers.append(WorkerProcess(setup, self._descriptor, gpu))
        for worker in self._workers:
            worker.confirm_start(worker.receive())

    def close(self) -> None:
        """End all processes."""
        while self._workers:
            self._workers.pop().kill()

    def execute(self, jobs: Iterable[Job], state: ServerState) -> Iterator[Result]:
        """Yield the results in the order of the jobs.

        The number of jobs that are assigned, or whose result was not yielded yet, is at most twice that of processes.

        Raises:
            Exception: any exception that a job raises.
        """
        if self._state is not state:  # the state of a round's evaluation is that of the next round: send it once
            self._state, self._encoded_state = state, encode_message(replace(state, private={}))
            self._state_number += 1
        batch = JobBatch(jobs, self._encoded_state, self._state_number, self._merge, len(self._workers))
        for index in range(batch.total):
            batch.next_index = index
            while index not in batch.done:
                self._dispatch(batch)
                self._process_answers(batch)
                batch.raise_if_failed()
            yield batch.done.pop(index)

    def _dispatch(self, batch: JobBatch) -> None:
        for worker in self._workers:
            if worker.is_ready and worker.task is None and batch.tasks:
                if batch.is_far_ahead(len(self._workers)):
                    return
                worker.assign(batch.tasks.popleft())

    def _process_answers(self, batch: JobBatch) -> None:
        """Wait for at least one answer, and store all that have arrived.

        A process gets its next job before its answer is decoded.
        """
        for worker, parts in self._wait():
            task, worker.task = worker.task, None
            if parts is None:
                self._replace(worker)
            elif task is None:
                worker.confirm_start(parts)
                self._failed_starts = 0
            if task is not None and parts is None:
                task.batch.lose(task)
            self._dispatch(batch)
            if task is not None and parts is not None:
                task.batch.take(task, parts)

    def _wait(self) -> list[tuple[WorkerProcess, Buffers | None]]:
        """Wait for answers of worker processes.

        The answer is None for a process that has ended or exceeds the timeout.

        Returns:
            (worker, answer) for each worker with an answer.
        """
        busy = {worker.connection: worker for worker in self._workers if worker.task is not None or not worker.is_ready}
        oldest = min((worker for worker in busy.values() if worker.task is not None), key=_assigned_at, default=None)
        remaining_s = None
        if self._timeout_s is not None and oldest is not None:
            remaining_s = max(0.0, oldest.assigned_at + self._timeout_s - time.monotonic())
        answers: list[tuple[WorkerProcess, Buffers | None]] = []
        for connection in wait(list(busy), remaining_s):
            assert isinstance(connection, socket)
            answers.append((busy[connection], busy[connection].receive()))
        if not answers and oldest is not None:
            log.warning("a worker process gave no answer for %.0f s", self._timeout_s)
            answers.append((oldest, None))
        return answers

    def _replace(self, worker: WorkerProcess) -> None:
        worker.kill()
        status = worker.process.returncode
        self._failed_starts += not worker.is_ready
        if self._failed_starts >= MAX_FAILED_STARTS:
            raise LostWorkers(
                f"{MAX_FAILED_STARTS} worker processes ended while they started, the last one with exit status {status}"
            )
        log.warning("worker process %d is lost (exit status %s); a new one replaces it", worker.process.pid, status)
        self._workers[self._workers.index(worker)] = WorkerProcess(self._setup, self._descriptor, worker.gpu)


def _assigned_at(worker: WorkerProcess) -> float:
    return worker.assigned_at


def _start(connection: int, descriptor: int, environment: Mapping[str, str]) -> ForkedWorker | subprocess.Popen[bytes]:
    """Fork a worker process, or start a new one without fork server."""
    if (server := fork_server()) is not None:
        try:
            return server.start_worker(connection, descriptor, environment)
        except OSError as error:
            log.warning("the fork server has ended, so worker processes are new processes: %s", error)
            close_fork_server()
    program, path = str(Path(__file__).with_name("worker_process.py")), json.dumps(sys.path)
    # The process inherits blocked signals. Lightning would replace handlers that ignore the signals.
    with _blocked(BLOCKED_SIGNALS):
        return subprocess.Popen(
            [sys.executable, "-P", program, str(connection), str(os.getpid()), path],
            pass_fds=[connection, descriptor],
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,  # a group of its own, so that `kill` also ends its DataLoader workers
        )


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
