"""Faults of worker processes."""

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
from fedlit.executors.executor import Execute, Executor, Worker
from fedlit.simulation import CrashWorker, Drop, FailurePolicy, Fault, FaultPlan
from matrix.checkpoint_rows import reference_run, run_until
from matrix.client_rows import expect_failures, two_client_policy
from matrix.forks import forked_workers
from matrix.lab import Rows, expect, expect_same, run

ROWS = Rows()


@dataclass(frozen=True)
class LastFirst(Executor):
    """An executor that runs the last job first; the results come in the order of the jobs."""

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        def execute(jobs: Any, state: Any) -> Iterator[Any]:
            results = [worker(job, state) for job in reversed(list(jobs))]
            yield from self.in_order(results)

        yield execute

    def in_order(self, results: list[Any]) -> list[Any]:
        """Return the results, which are in the order of arrival, in the order of the jobs."""
        return results[::-1]


@ROWS("workers that finish in another order", "same bits of the sum")
def order(folder: Path) -> str:
    options = {"clients_per_round": 3}  # with two or four clients the reverse order gives the same sum
    expect_same(run(folder / "run", executor=LastFirst(), **options), reference_run(**options))
    return ""


@dataclass(frozen=True)
class Once(Fault):
    """Hits the first worker process that trains a client with a signal or a hang.

    Args:
        path: a file that exists once the fault has struck.
        number: signal that the process sends to itself; None to hang.
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


@dataclass(frozen=True)
class Always(Fault):
    """Kills every process that trains the client."""

    def before(self, attempt: int | None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def _expect_worker_replaced(folder: Path, fault: Fault, **options: Any) -> None:
    """Raise Broken unless a fault costs a worker process in round 2, and the run is bit-identical."""
    plan = FaultPlan(fault, 1.0, rounds=(2,))
    with forked_workers() as messages:
        result = run(folder / "run", executor=Processes(2, **options), faults=FailurePolicy(plans=(plan,)))
    expect(any("is lost" in line for line in messages), f"no worker process was lost: {messages}")
    expect_same(result, reference_run())


@ROWS("SIGKILL of a worker process", "its chunk runs again, same bits")
def worker_killed(folder: Path) -> str:
    _expect_worker_replaced(folder, Once(folder / "done", signal.SIGKILL))
    return ""


@ROWS("a client that kills its worker each time", "lost_worker, the others continue")
def worker_lost(folder: Path) -> str:
    expected = run(folder / "dropped", faults=two_client_policy(Drop()))
    with forked_workers():
        result = run(folder / "struck", executor=Processes(2), faults=two_client_policy(Always()))
    for name in ("state", "client_states", "files"):
        expect(result[name] == expected[name], f"{name}: differs from the run in which these clients drop out")
    expect_failures(folder / "struck", "lost_worker")
    return ""


@ROWS("planned SIGKILL of workers in each first attempt", "same bits, inline ignores it")
def worker_crash(folder: Path) -> str:
    _expect_worker_replaced(folder, CrashWorker())
    expect_same(run(folder / "inline", faults=FailurePolicy(plans=(FaultPlan(CrashWorker(), 1.0),))), reference_run())
    return ""


@ROWS("a worker process that hangs", "replaced, runs again, same bits", slow=True)
def worker_hangs(folder: Path) -> str:
    _expect_worker_replaced(folder, Once(folder / "done"), wall_timeout_s=1.0)
    return ""


@ROWS("resume under other executors", "same bits")
def other_executor(folder: Path) -> str:
    expected = reference_run()
    with forked_workers():
        for name, first, second in (
            ("more", Inline(), Processes(2)),
            ("fewer", Processes(2), Processes(1)),
            ("none", Processes(1), Inline()),
        ):
            expect_same(run(run_until(folder / name, 2, executor=first), executor=second), expected, name)
    return "inline, processes of 1 and 2"
