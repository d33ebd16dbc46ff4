"""The executor that uses worker processes only if they pay off.

Worker processes pay off if they save more time than their start costs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedlit.core.errors import ConfigError, ConfigErrors, raise_errors, require
from fedlit.core.messages import Job, Result, ServerState, TrainJob
from fedlit.executors.executor import Execute, Executor, Phases, Worker
from fedlit.executors.inline import Inline, inline_execute, torch_threads
from fedlit.executors.processes import Processes, makespan
from fedlit.executors.vectorized.groups import GROUP_SIZE, group_jobs

if TYPE_CHECKING:
    import torch

log = logging.getLogger("fedlit")

MIN_GAIN = 2.0
"""Smallest ratio of the saved time to the start time, because the work of later rounds is an estimate."""


@dataclass(frozen=True)
class Auto(Executor):
    """The executor that starts worker processes once they pay off.

    Jobs run in this process, and in worker processes from the round on in which they pay off. The choice and its reason are
    logged. Results are bit-identical either way.

    Args:
        workers: number of worker processes, or `auto`, as for `Processes`.
        threads: torch threads of each process, >= 1.
        per_gpu: worker processes on each GPU, >= 1.
        wall_timeout_s: seconds, > 0, after which a worker process that gives no answer is replaced; None for never.
        start_s: seconds in which a process starts on a core of its own, >= 0; None for those of a new or a forked process.
        vectorize: `auto` trains clients as stacked models where that is possible and faster, as `Vectorized` does; None never
            does, since results differ in their last bits.
    """

    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    per_gpu: int = 1
    wall_timeout_s: float | None = None
    start_s: float | None = None
    vectorize: Literal["auto"] | None = None

    def __post_init__(self) -> None:
        self._make_processes()
        is_valid, is_word = self.start_s is None or self.start_s >= 0, self.vectorize in ("auto", None)
        hint = "use executor=vectorized to train all clients as stacked models"
        raise_errors(
            require(is_valid, "start_s", self.start_s, "must be at least 0"),
            require(is_word, "vectorize", self.vectorize, "must be auto or null", hint),
        )

    def _make_processes(self) -> Processes:
        return Processes(self.workers, self.threads, self.per_gpu, self.wall_timeout_s)

    def estimate_seconds(self, rounds: Sequence[Phases], device: torch.device) -> float:
        """Return the estimated seconds of a run's jobs.

        The choice is the one that the run would make after round 1.
        """
        processes, inline = self._make_processes(), Inline(self.threads)
        later, start_s = rounds[1:], processes.start_seconds(device, self.start_s)
        inline_s = inline.estimate_seconds(later, device)
        parallel_s = processes.estimate_seconds(later, device) - processes.start_seconds(device)
        later_s = start_s + parallel_s if inline_s - parallel_s > MIN_GAIN * start_s else inline_s
        return inline.estimate_seconds(rounds[:1], device) + later_s

    def prepare(self) -> None:
        """Start the fork server: see `Processes.prepare`."""
        self._make_processes().prepare()

    @property
    def has_worker_processes(self) -> bool:
        """True: clients may train in worker processes."""
        return True

    @property
    def timeout_s(self) -> float | None:
        """Seconds until a worker process without an answer is replaced; None: never."""
        return self.wall_timeout_s

    @property
    def has_common_key(self) -> bool:
        """True, as in this process and in worker processes."""
        return True

    def check_worker(self, worker: Worker) -> list[ConfigError]:
        """No error: what does not suit a stack trains alone."""
        return []

    @contextmanager
    def open(self, worker: Worker, rounds: int) -> Iterator[Execute]:
        """Yield the function that runs jobs; end any worker processes afterwards."""
        with torch_threads(self.threads), ExitStack() as stack:
            if (size := self.stack_size(worker)) is None:
                yield _Choice(self._make_processes(), self.start_s, worker, rounds, stack).execute
                return
            log.info("executor=auto trains up to %d clients at once, as one stacked model", size)
            choice = _Choice(self._make_processes(), self.start_s, worker.vectorize(), rounds, stack)
            yield lambda jobs, state: choice.execute(group_jobs(jobs, size), state)

    def stack_size(self, worker: Worker) -> int | None:
        """Largest number of clients that train as one stacked model."""
        if self.vectorize is None:
            return None
        try:
            worker.vectorize(if_faster=True)
        except (ConfigError, ConfigErrors) as error:
            log.info("executor=auto trains clients one by one: %s", error.errors[0])
            return None
        return GROUP_SIZE


class _Choice:
    """The choice between this process and worker processes, checked before each round."""

    def __init__(
        self, processes: Processes, start_s: float | None, worker: Worker, rounds: int, stack: ExitStack
    ) -> None:
        self._processes, self._worker, self._rounds, self._stack = processes, worker, rounds, stack
        device = worker.device
        self._count, self._parallel = len(processes.gpus(device)), processes.parallel_jobs(device)
        self._start_s = processes.start_seconds(device, start_s)  # of all processes
        self._execute: Execute | None = None  # once the choice is final
        self._is_logged = False
        self._durations: list[list[float]] = []  # seconds of each job, one list for each call of `execute`
        self._measured_rounds, self._last_round = 0, -1

    def execute(self, jobs: Iterable[Job], state: ServerState) -> Iterator[Result]:
        """Return the results in the order of the jobs."""
        jobs = list(jobs)
        if self._execute is None and jobs and jobs[0].round > self._last_round:
            if self._last_round < 0:
                self._choose_before_first_round(jobs)
            else:
                self._choose()
            self._last_round = jobs[0].round
        return self._measure(jobs, state) if self._execute is None else self._execute(jobs, state)

    def _measure(self, jobs: Sequence[Job], state: ServerState) -> Iterator[Result]:
        durations: list[float] = []
        self._durations.append(durations)
        for job in jobs:
            start = time.perf_counter()
            result = self._worker(job, state)
            durations.append(time.perf_counter() - start)
            yield result

    def _choose_before_first_round(self, jobs: Sequence[Job]) -> None:
        clients = sum(len(job.clients) for job in jobs if isinstance(job, TrainJob))
        reasons = {
            "there is one core": self._parallel == 1,
            "there is one round": self._rounds <= 1,
            "a round has one client": clients == 1,
        }
        if valid := [reason for reason, is_valid in reasons.items() if is_valid]:
            self._execute = inline_execute(self._worker)
            self._log(f"this process, because {valid[0]}")

    def _choose(self) -> None:
        self._measured_rounds += 1
        remaining = self._rounds - self._measured_rounds
        inline_s = remaining * sum(map(sum, self._durations)) / self._measured_rounds
        parallel_s = remaining * sum(makespan(s, self._parallel) for s in self._durations) / self._measured_rounds
        is_worthwhile = inline_s - parallel_s > MIN_GAIN * self._start_s
        if is_worthwhile or not self._is_logged:
            place = f"{self._count} worker processes" if is_worthwhile else "this process"
            self._log(
                f"{place} from round {self._measured_rounds + 1} on: the remaining {remaining} rounds need about "
                f"{inline_s:.1f} s in this process, or {parallel_s:.1f} s in {self._count} worker processes "
                f"after a start of {self._start_s:.3g} s"
            )
        if is_worthwhile:
            self._execute = self._stack.enter_context(self._processes.open(self._worker, remaining))

    def _log(self, choice: str) -> None:
        self._is_logged = True
        log.info("executor=auto takes %s", choice)
