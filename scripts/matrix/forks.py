"""Processes that die on purpose: forked runs, and worker processes that are forked to start at once."""

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
from matrix.lab import due, listening


@dataclass(frozen=True)
class End:
    """How a process ended.

    Args:
        status: its exit status, or the negative number of the signal that killed it.
        said: what it printed.
    """

    status: int
    said: str


def forked(task: Callable[[], Any], seconds: int = 120) -> End:
    """Does something in a process of its own, forked from this one, which has imported everything."""
    with tempfile.TemporaryFile() as out:
        sys.stdout.flush()
        pid = _fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(seconds)
                status = _inside(task, out.fileno())
            finally:
                os._exit(status)
        _, raw = os.waitpid(pid, 0)
        out.seek(0)
        return End(os.waitstatus_to_exitcode(raw), out.read().decode(errors="replace"))


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, of which our libraries' are idle
        return os.fork()


def _inside(task: Callable[[], Any], out: int) -> int:
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    for name in ("fedlit", "fedlit.executors"):  # in which the parent may be listening
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
def striking(round: int, place: int, *numbers: int) -> Iterator[None]:
    """In the block a client's fit is hit by signals: in a round, counted from 1, the client at a place in its cohort."""
    ask, seen = ClientWorker._try, []

    def asked(self: ClientWorker, chunk: Any, client: int, state: ServerState) -> Any:
        if chunk.round + 1 == round:
            seen.append(client)
            if len(seen) == place + 1:
                due.extend(numbers)
        return ask(self, chunk, client, state)

    with patch.object(ClientWorker, "_try", asked):
        yield


@contextmanager
def forked_workers() -> Iterator[list[str]]:
    """In the block worker processes are forked from this one and not started from nothing, which takes seconds; with what
    their pool logs."""
    start = subprocess.Popen

    def begin(command: Any, *given: Any, **options: Any) -> Any:
        ours = [
            n
            for n, part in enumerate(command)
            if str(part).rpartition("/")[2] in ("fedlit.executors.worker_process", "worker_process.py")
        ]
        return _Fork(command[ours[0] :]) if ours else start(command, *given, **options)

    with patch("subprocess.Popen", begin), listening("fedlit.executors") as said:
        yield said


class _Fork:
    """What `subprocess.Popen` is to who starts a worker process."""

    def __init__(self, command: list[str]) -> None:
        self.returncode: int | None = None
        self.pid = _fork()
        if self.pid == 0:
            try:
                from fedlit.executors import worker_process as child

                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                    signal.signal(number, signal.SIG_DFL)
                sys.argv = command
                child.main()
            finally:
                os._exit(0)
        os.setpgid(self.pid, self.pid)  # it is ended with its group

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
