"""Jobs in this process, until it is seen that worker processes save more than their start costs. The bits are the same."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from fedlit.core.errors import raise_errors, require
from fedlit.core.messages import Job, Result, ServerState, TrainJob
from fedlit.executors.executor import Execute, Worker
from fedlit.executors.inline import torch_threads
from fedlit.executors.processes import Processes
from fedlit.executors.resources import available_cores

log = logging.getLogger("fedlit")

START_S = 6.0
"""Seconds in which a process imports torch and Lightning on a core of its own: 5 to 7 where it was measured."""

MIN_GAIN = 2.0
"""What is saved must be so many times what the start costs: the work of later rounds is a guess."""


@dataclass(frozen=True)
class Auto:
    """Runs jobs in this process, and from a later round on in others if that is clearly faster; which and why is logged.

    Args:
        workers, threads, per_gpu, wall_timeout_s: see `Processes`.
        start_s: seconds in which a process starts on a core of its own, >= 0.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    per_gpu: int = 1
    wall_timeout_s: float | None = None
    start_s: float = START_S

    def __post_init__(self) -> None:
        self._processes()
        raise_errors(require(self.start_s >= 0, "start_s", self.start_s, "must be a number of at least 0"))

    def _processes(self) -> Processes:
        return Processes(self.workers, self.threads, self.per_gpu, self.wall_timeout_s)

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Yields what does the jobs, here or there; processes end whichever way the block is left."""
        with torch_threads(self.threads), ExitStack() as stack:
            yield _Choice(self._processes(), self.start_s, worker, rounds, stack).execute


class _Choice:
    """Where a run's jobs are done, which is thought over before each round."""

    def __init__(self, processes: Processes, start_s: float, worker: Worker, rounds: int, stack: ExitStack) -> None:
        self._processes, self._worker, self._rounds, self._stack = processes, worker, rounds, stack
        self._start_s = start_s
        device = worker.device
        self._count = len(processes.gpus(device))
        self._parallel = min(self._count, available_cores()) if device.type == "cpu" else self._count
        self._there: Execute | None = None
        self._told = self._settled = False
        self._took: list[list[float]] = []  # seconds of each job, for each time that jobs were given
        self._done, self._round = 0, -1  # rounds that were done here, and the number of the last one

    def execute(self, jobs: Iterable[Job], state: ServerState) -> Iterator[Result]:
        """The results in the order of the jobs."""
        jobs = list(jobs)
        if not self._settled and jobs and jobs[0].round > self._round:
            if self._round < 0:
                self._think_before_the_first(jobs)
            else:
                self._think()
            self._round = jobs[0].round
        return self._here(jobs, state) if self._there is None else self._there(jobs, state)

    def _here(self, jobs: Sequence[Job], state: ServerState) -> Iterator[Result]:
        took: list[float] = []
        if not self._settled:
            self._took.append(took)
        for job in jobs:
            begin = time.perf_counter()
            result = self._worker(job, state)
            took.append(time.perf_counter() - begin)
            yield result

    def _think_before_the_first(self, jobs: Sequence[Job]) -> None:
        clients = sum(len(job.clients) for job in jobs if isinstance(job, TrainJob))
        nothing = {
            "there is one core": self._parallel == 1,
            "there is one round": self._rounds <= 1,
            "a round has one client": clients == 1,
        }
        if reasons := [why for why, holds in nothing.items() if holds]:
            self._settled = True
            self._tell(f"this process, for {reasons[0]}")

    def _think(self) -> None:
        self._done += 1
        left, start = self._rounds - self._done, self._start_s * -(-self._count // available_cores())
        here = left * sum(map(sum, self._took)) / self._done
        there = left * sum(makespan(took, self._parallel) for took in self._took) / self._done
        pays = here - there > MIN_GAIN * start
        if pays or not self._told:
            where = f"{self._count} processes" if pays else "this process"
            self._tell(
                f"{where} from round {self._done + 1} on: the {left} rounds to come should take {here:.1f} s in this "
                f"process and {there:.1f} s in {self._count} others, which take about {start:.0f} s to start"
            )
        if pays:
            self._settled = True
            self._there = self._stack.enter_context(self._processes.open(self._worker, left))

    def _tell(self, what: str) -> None:
        self._told = True
        log.info("executor=auto takes %s", what)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until all jobs are done by so many workers, each of which takes the next one when it is free."""
    free = [0.0] * workers
    for job in seconds:
        heapq.heapreplace(free, free[0] + job)
    return max(free)
