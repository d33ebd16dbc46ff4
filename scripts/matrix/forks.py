"""Processes that are killed on purpose: forked runs, and worker processes that are forked to start at once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from fedlit.client.worker import ClientWorker
from fedlit.core.messages import ServerState
from matrix.lab import capture_logs, due


@dataclass(frozen=True)
class End:
    """The end of a process.

    Args:
        status: its exit status, or the negative number of the signal that killed it.
        output: text that the process printed.
    """

    status: int
    output: str


def run_in_fork(task: Callable[[], Any], seconds: int = 120) -> End:
    """Run a task in a fork of this process, which has imported everything."""
    with tempfile.TemporaryFile() as out:
        sys.stdout.flush()
        pid = _fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(seconds)
                status = _run_child(task, out.fileno())
            finally:
                os._exit(status)
        _, raw = os.waitpid(pid, 0)
        out.seek(0)
        return End(os.waitstatus_to_exitcode(raw), out.read().decode(errors="replace"))


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads; those of our libraries are idle
        return os.fork()


def _run_child(task: Callable[[], Any], out: int) -> int:
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    for name in ("fedlit", "fedlit.executors"):  # the parent may capture these
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.basicConfig(force=True, stream=sys.stderr, format="%(message)s")
    status = 0
    try:
        task()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


@contextmanager
def signals_in_fit(round: int, place: int, *numbers: int) -> Iterator[None]:
    """Send signals to this process in the fit of one client within the block.

    Args:
        round: counted from 1.
        place: place of the client in its cohort, counted from 0.
        numbers: signals.
    """
    original, seen = ClientWorker._train_client, []

    def train_client(self: ClientWorker, job: Any, state: ServerState, spent: Any, client: int, *rest: Any) -> Any:
        if job.round + 1 == round:
            seen.append(client)
            if len(seen) == place + 1:
                due.extend(numbers)
        return original(self, job, state, spent, client, *rest)

    with patch.object(ClientWorker, "_train_client", train_client):
        yield


@contextmanager
def forked_workers() -> Iterator[list[str]]:
    """Fork worker processes from this process within the block, because a new process takes seconds to start.

    Yields the log of the worker pool.
    """
    original = subprocess.Popen

    def start(command: Any, *args: Any, **options: Any) -> Any:
        positions = [n for n, part in enumerate(command) if str(part).rpartition("/")[2] == "worker_process.py"]
        return _Fork(command[positions[0] :]) if positions else original(command, *args, **options)

    with patch("subprocess.Popen", start), capture_logs("fedlit.executors") as messages:
        yield messages


class _Fork:
    """A forked worker process with the interface of `subprocess.Popen`."""

    def __init__(self, command: list[str]) -> None:
        self.returncode: int | None = None
        self.pid = _fork()
        if self.pid == 0:
            try:
                from fedlit.executors.pool import worker_process

                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                    signal.signal(number, signal.SIG_DFL)
                sys.argv = command
                worker_process.main()
            finally:
                os._exit(0)
        os.setpgid(self.pid, self.pid)  # the pool kills the whole group

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    terminate = kill

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        return self._wait(0)

    def _wait(self, how: int) -> int | None:
        if self.returncode is None:
            with suppress(ChildProcessError):
                pid, raw = os.waitpid(self.pid, how)
                self.returncode = os.waitstatus_to_exitcode(raw) if pid else None
        return self.returncode
