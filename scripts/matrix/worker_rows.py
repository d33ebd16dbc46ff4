"""What may befall worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlit.executors import Inline, Processes
from fedlit.executors.executor import Execute, Worker
from fedlit.simulation.faults import CrashWorker, Drop, FailurePolicy, FaultPlan
from matrix.client_rows import booked, struck
from matrix.commit_rows import unbroken, until
from matrix.forks import forked_workers
from matrix.lab import Rows, must, run, same

ROWS = Rows()


@dataclass(frozen=True)
class LastFirst:
    """An executor whose last job is done first; the results come in the order of the jobs, as they have to."""

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        def execute(jobs: Any, state: Any) -> Iterator[Any]:
            results = [worker(job, state) for job in reversed(list(jobs))]
            yield from self.sent(results)

        yield execute

    def sent(self, results: list[Any]) -> list[Any]:
        """The results, which came in this order, in the order in which they are given on."""
        return results[::-1]


@ROWS("workers that finish in another order", "the sum's bits are the same")
def order(folder: Path) -> str:
    options = {"clients_per_round": 3}  # of two or four the reverse is the same sum
    same(run(folder / "run", executor=LastFirst(), **options), unbroken(**options))
    return ""


@dataclass(frozen=True)
class Once:
    """Does something to a worker process, the first time that it is at a client.

    Args:
        path: of a file that says that it is done.
        number: of a signal to itself; None hangs.
    """

    path: Path
    number: int | None = None

    def before(self, attempt: int | None) -> None:
        if threading.current_thread() is threading.main_thread() and not self.path.exists():
            self.path.touch()
            if self.number is None:
                time.sleep(600)
            else:
                os.kill(os.getpid(), self.number)

    def after(self, update: Any, generator: Any) -> Any:
        return update


@dataclass(frozen=True)
class Always:
    """Kills the process that trains the client."""

    def before(self, attempt: int | None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def after(self, update: Any, generator: Any) -> Any:
        return update


def _in_processes(folder: Path, fault: Any, **options: Any) -> None:
    """Raises Broken unless a fault costs a worker process in round 2, and the bits are the same."""
    plan = FaultPlan(fault, 1.0, rounds=(2,))
    with forked_workers() as said:
        found = run(folder / "run", executor=Processes(2, **options), faults=FailurePolicy(plans=(plan,)))
    must(any("is lost" in line for line in said), f"no worker was lost: {said}")
    same(found, unbroken())


@ROWS("SIGKILL of a worker process", "its chunk runs again, same bits")
def worker_killed(folder: Path) -> str:
    _in_processes(folder, Once(folder / "done", signal.SIGKILL))
    return ""


@ROWS("a client that kills its worker each time", "lost_worker, the others go on")
def worker_lost(folder: Path) -> str:
    wanted = run(folder / "dropped", faults=struck(Drop()))
    with forked_workers():
        found = run(folder / "struck", executor=Processes(2), faults=struck(Always()))
    for name in ("state", "memories", "files"):
        must(found[name] == wanted[name], f"{name}: not what it is with the clients dropped as planned")
    booked(folder / "struck", "lost_worker")
    return ""


@ROWS("SIGKILL of workers as planned, each first attempt", "same bits, inline takes no notice")
def worker_crash(folder: Path) -> str:
    _in_processes(folder, CrashWorker())
    same(run(folder / "inline", faults=FailurePolicy(plans=(FaultPlan(CrashWorker(), 1.0),))), unbroken())
    return ""


@ROWS("a worker process that hangs", "given up, runs again, same bits", slow=True)
def worker_hangs(folder: Path) -> str:
    _in_processes(folder, Once(folder / "done"), wall_timeout_s=1.0)
    return ""


@ROWS("resume under other executors", "same bits")
def other_executor(folder: Path) -> str:
    wanted = unbroken()
    with forked_workers():
        for name, first, second in (
            ("more", Inline(), Processes(2)),
            ("fewer", Processes(2), Processes(1)),
            ("none", Processes(1), Inline()),
        ):
            same(run(until(folder / name, 2, executor=first), executor=second), wanted, name)
    return "inline, processes of 1 and 2"
