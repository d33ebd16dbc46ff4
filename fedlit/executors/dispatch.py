"""Jobs that were given together, what has come of them, and what becomes of those whose process is lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedlit.aggregation.mean import merge
from fedlit.core.errors import LostWorkers
from fedlit.core.messages import (
    LOSS_QUERY,
    ClientFailure,
    EvaluateJob,
    Job,
    LossJob,
    LossResult,
    PartialAggregate,
    Result,
    TrainJob,
)
from fedlit.executors.transport import Buffers, decode_message

MAX_ATTEMPTS = 2
"""How often a chunk is tried whose worker is lost, before its clients run alone."""


@dataclass(frozen=True, eq=False)
class Task:
    """A job; with `alone`, one client of a chunk that lost its worker too often."""

    batch: JobBatch
    index: int
    job: Job
    alone: int | None = None


class JobBatch:
    """Jobs that were given together, and what has come of them. Answers that nobody waits for any more end here too."""

    def __init__(self, jobs: Iterable[Job], state: Buffers, number: int) -> None:
        self.tasks = deque(Task(self, index, job) for index, job in enumerate(jobs))
        self.state, self.number, self.total, self.next = state, number, len(self.tasks), 0
        self.done: dict[int, Result] = {}
        self.error: Exception | None = None
        self.lost: Counter[int] = Counter()
        self._apart: dict[int, list[PartialAggregate | None]] = {}  # of chunks whose clients run alone

    def job(self, task: Task) -> Job:
        """The job as it is sent: a chunk knows which attempt it is."""
        return replace(task.job, attempt=self.lost[task.index]) if isinstance(task.job, TrainJob) else task.job

    def take(self, task: Task, parts: Buffers) -> None:
        """Takes in what a process answered; what the job raised is kept for whoever waits."""
        said, what = decode_message(parts)
        if said == "raised":
            self.error, shown = what
            what[0].add_note(f"in a worker process:\n{shown}")
        elif task.alone is None:
            self.done[task.index] = what
        else:
            self._take_alone(task, what)

    def lose(self, task: Task) -> None:
        """A job whose process is gone is tried again; in the end its clients run alone, and one may be lost."""
        if task.alone is not None:
            assert isinstance(task.job, TrainJob)
            reason = f"its worker process was lost {MAX_ATTEMPTS} times with others and once alone"
            failures = (ClientFailure(task.job.clients[0], "lost_worker", reason),)
            return self._take_alone(task, PartialAggregate(task.job.index, failures=failures))
        self.lost[task.index] += 1
        if self.lost[task.index] < MAX_ATTEMPTS:
            return self.tasks.appendleft(task)
        if isinstance(task.job, LossJob):
            failure = ClientFailure(
                task.job.client, "lost_worker", f"its worker process was lost {MAX_ATTEMPTS} times, {LOSS_QUERY}"
            )
            self.done[task.index] = LossResult(task.job.client, float("nan"), failure)
            return None
        if isinstance(task.job, EvaluateJob):  # without one there is no result
            self.error = LostWorkers(_untold(task.job))
            return None
        clients = task.job.clients
        self._apart[task.index] = [None] * len(clients)
        alone = [replace(task, job=replace(task.job, clients=(who,)), alone=place) for place, who in enumerate(clients)]
        return self.tasks.extendleft(reversed(alone))

    def _take_alone(self, task: Task, partial: PartialAggregate) -> None:
        assert task.alone is not None
        self._apart[task.index][task.alone] = partial
        parts = [part for part in self._apart[task.index] if part is not None]
        if len(parts) == len(self._apart[task.index]):
            self.done[task.index] = merge(parts)


def _untold(job: EvaluateJob) -> str:
    """That a job was lost for good: what it was to evaluate, and what may help."""
    whose = "the server's" if job.client is None else f"client {job.client}'s"
    return (
        f"round {job.round + 1} cannot be evaluated on {whose} {job.split} samples: the worker process was lost {MAX_ATTEMPTS} "
        "times; a smaller data.eval_batch_size or fewer executor.workers need less memory, a longer "
        "executor.wall_timeout_s gives more time, and executor=inline does it without worker processes"
    )
