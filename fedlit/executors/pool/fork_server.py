"""The fork server: a copy of this process that forks worker processes.

The copy is made after the imports of a run, which take seconds, and before its first operator. It never runs an operator, and
so a worker process starts as a new process would, without the imports. A copy is safe only of a process without threads: a lock
that another thread holds stays locked in the copy. CUDA does not survive a copy either.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from fedlit.executors.pool.worker_process import end_with_parent, run_jobs, set_malloc_options

log = logging.getLogger("fedlit")

MAX_MESSAGE = 1 << 20
PROCESS_MAPS = Path("/proc/self/maps")
"""The files that this process has mapped, such as libraries."""

_server: list[ForkServer] = []
"""The fork server of this process, if it has one."""


class ForkedWorker:
    """A worker process that a fork server has forked.

    It has the part of the interface of `subprocess.Popen` that the pool uses.

    Args:
        server: the fork server, which is the parent of the process.
        pid: id of the process.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server, self.pid, self.returncode = server, pid, None

    def wait(self) -> int | None:
        """Wait until the process has ended.

        Returns:
            The exit status, negative for a signal; None if the fork server has ended too.
        """
        if self.returncode is None:
            with suppress(OSError, EOFError):
                self.returncode = self._server.request({"wait": self.pid})
        return self.returncode


class ForkServer:
    """This process's side of a fork server.

    Args:
        pid: id of the fork server.
        connection: socket to it.
    """

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._connection, self._owner = pid, connection, os.getpid()

    @property
    def is_usable(self) -> bool:
        """True in the process that made the copy."""
        return os.getpid() == self._owner

    def start_worker(self, connection: int, file: int, environment: Mapping[str, str]) -> ForkedWorker:
        """Fork a worker process.

        Args:
            connection: descriptor of the socket of the process.
            file: descriptor of the file that it maps; the process has it under the same number.
            environment: its environment variables.

        Raises:
            OSError: if the fork server has ended.
        """
        request = {"file": file, "path": sys.path, "environment": dict(environment)}
        return ForkedWorker(self, self.request(request, connection, file))

    def request(self, content: Mapping[str, object], *descriptors: int) -> int:
        """Send a request with descriptors, and return the answer.

        Raises:
            OSError: if the fork server has ended.
        """
        socket.send_fds(self._connection, [json.dumps(content).encode()], descriptors)
        answer = self._connection.recv(MAX_MESSAGE)
        if not answer:
            raise BrokenPipeError("the fork server has ended")
        return json.loads(answer)

    def close(self) -> None:
        """End the fork server; its worker processes end too."""
        self._connection.close()
        if self.is_usable:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)


def fork_server() -> ForkServer | None:
    """The fork server of this process; None without one."""
    return _server[0] if _server and _server[0].is_usable else None


def start_fork_server() -> None:
    """Copy this process, if that is safe, as its fork server.

    An earlier fork server is closed.
    """
    close_fork_server()
    if sys.platform != "linux" or (torch := sys.modules.get("torch")) is None:
        return
    if torch.cuda.is_initialized() or "libcuda.so" in PROCESS_MAPS.read_text():  # also a count of GPUs loads the driver
        log.info("worker processes are new processes, because this process has loaded CUDA")
        return
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                near.close()
                _serve(far, parent)
            finally:
                os._exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    far.close()
    server = ForkServer(pid, near)
    # Counted now: OpenBLAS ends its own threads before a fork, and starts them again when it needs them.
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        server.close()
        log.info("worker processes are new processes, because this process has %d threads", threads)
        return
    _server.append(server)


def close_fork_server() -> None:
    """End the fork server of this process, if it has one."""
    while _server:
        _server.pop().close()


@contextmanager
def closing_fork_server() -> Iterator[None]:
    """End the fork server of this process after the block."""
    try:
        yield
    finally:
        close_fork_server()


def _serve(connection: socket.socket, parent: int) -> None:
    """Fork worker processes until the parent process ends."""
    os.setpgid(0, 0)
    end_with_parent(parent)
    _forget_process(connection.fileno())
    gc.freeze()
    while True:
        content, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 2)
        if not content:
            os._exit(0)
        request = json.loads(content)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = _fork_worker(connection, descriptors, request)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(json.dumps(answer).encode())


def _forget_process(kept: int) -> None:
    """Forget the files, streams and log handlers of the parent process."""
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    sys.stdout, sys.stderr, sys.excepthook = sys.__stdout__, sys.__stderr__, sys.__excepthook__
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger) and (logger is logging.root or logger.name.startswith("fedlit")):
            logger.handlers, logger.propagate = [], True
            logger.setLevel(logging.WARNING if logger is logging.root else logging.NOTSET)


def _fork_worker(connection: socket.socket, descriptors: list[int], request: Mapping[str, object]) -> int:
    server, pid = os.getpid(), os.fork()
    if pid:
        with suppress(PermissionError, ProcessLookupError):  # so that the group exists when the parent may kill it
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        connection.close()
        _become_worker(descriptors, server, request)
    finally:
        os._exit(0)


def _become_worker(descriptors: list[int], server: int, request: Mapping[str, object]) -> None:
    own, file = os.dup(descriptors[0]), request["file"]
    assert isinstance(file, int)
    if own == file:
        own = os.dup(own)
    if descriptors[1] != file:
        os.dup2(descriptors[1], file)
    for descriptor in {*descriptors} - {file}:
        os.close(descriptor)
    environment, path = request["environment"], request["path"]
    assert isinstance(environment, dict)
    assert isinstance(path, list)
    os.environ.clear()
    os.environ.update(environment)
    set_malloc_options(environment)
    run_jobs(own, server, path)
