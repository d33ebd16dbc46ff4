"""Jobs that were given together, what has come of them, and what becomes of those whose process is lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedlit.aggregation.mean import joined
from fedlit.core.errors import LostWorkers
from fedlit.core.messages import ASKED, Chunk, Evaluation, Failure, Job, Loss, Partial, Probe, Result
from fedlit.executors.transport import Parts, decode

ATTEMPTS = 2
"""How often a chunk is tried whose worker is lost, before its clients run alone."""


@dataclass(frozen=True, eq=False)
class Task:
    """A job; with `alone`, one client of a chunk that lost its worker too often."""

    call: Call
    index: int
    job: Job
    alone: int | None = None


class Call:
    """Jobs that were given together, and what has come of them. Answers that nobody waits for any more end here too."""

    def __init__(self, jobs: Iterable[Job], state: Parts, number: int) -> None:
        self.tasks = deque(Task(self, index, job) for index, job in enumerate(jobs))
        self.state, self.number, self.total, self.next = state, number, len(self.tasks), 0
        self.done: dict[int, Result] = {}
        self.error: Exception | None = None
        self.lost: Counter[int] = Counter()
        self._apart: dict[int, list[Partial | None]] = {}  # of chunks whose clients run alone

    def job(self, task: Task) -> Job:
        """The job as it is sent: a chunk knows which attempt it is."""
        return replace(task.job, attempt=self.lost[task.index]) if isinstance(task.job, Chunk) else task.job

    def take(self, task: Task, parts: Parts) -> None:
        """Takes in what a process answered; what the job raised is kept for whoever waits."""
        said, what = decode(parts)
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
            assert isinstance(task.job, Chunk)
            reason = f"its worker process was lost {ATTEMPTS} times with others and once alone"
            failures = (Failure(task.job.clients[0], "lost_worker", reason),)
            return self._take_alone(task, Partial(task.job.index, failures=failures))
        self.lost[task.index] += 1
        if self.lost[task.index] < ATTEMPTS:
            return self.tasks.appendleft(task)
        if isinstance(task.job, Probe):
            failure = Failure(task.job.client, "lost_worker", f"its worker process was lost {ATTEMPTS} times, {ASKED}")
            self.done[task.index] = Loss(task.job.client, float("nan"), failure)
            return None
        if isinstance(task.job, Evaluation):  # without one there is no result
            self.error = LostWorkers(_untold(task.job))
            return None
        clients = task.job.clients
        self._apart[task.index] = [None] * len(clients)
        alone = [replace(task, job=replace(task.job, clients=(who,)), alone=place) for place, who in enumerate(clients)]
        return self.tasks.extendleft(reversed(alone))

    def _take_alone(self, task: Task, partial: Partial) -> None:
        assert task.alone is not None
        self._apart[task.index][task.alone] = partial
        parts = [part for part in self._apart[task.index] if part is not None]
        if len(parts) == len(self._apart[task.index]):
            self.done[task.index] = joined(parts)


def _untold(job: Evaluation) -> str:
    """That a job was lost for good: what it was to evaluate, and what may help."""
    whose = "the server's" if job.client is None else f"client {job.client}'s"
    return (
        f"round {job.round + 1} cannot be evaluated on {whose} {job.split} samples: the worker process was lost {ATTEMPTS} "
        "times; a smaller data.eval_batch_size or fewer executor.workers need less memory, a longer "
        "executor.wall_timeout_s gives more time, and executor=inline does it without worker processes"
    )
