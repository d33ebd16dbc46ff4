"""Batches of jobs for worker processes: their results and their retries.

A job is retried when its process is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from fedlit.core.errors import LostWorkers
from fedlit.core.messages import (
    LOSS_QUERY,
    ClientFailure,
    EvaluateJob,
    ExchangeJob,
    ExchangeResult,
    Job,
    LossJob,
    LossResult,
    PartialAggregate,
    Result,
    TrainJob,
)
from fedlit.executors.pool.joining import JoinedJob, join_jobs
from fedlit.executors.pool.splitting import Merge, SingleResults, is_split, single_jobs
from fedlit.executors.pool.transport import Buffers, decode_message

MAX_ATTEMPTS = 2
"""Attempts at a job whose worker process is lost, before the clients of a training job run alone."""


@dataclass(frozen=True, eq=False)
class Task:
    """A job of a batch.

    Args:
        batch: the batch of the job.
        index: the place of the job's result, or of its first one.
        job: the job; for a client that runs alone, a job of this client only.
        position: place of a client that runs alone among the clients of its job; None for a whole job.
    """

    batch: JobBatch
    index: int
    job: Job | JoinedJob
    position: int | None = None


class JobBatch:
    """A batch of jobs, their results and their retries.

    A batch also takes the results that come after its caller has stopped to wait, so that the next batch does not get them.

    Args:
        jobs: the jobs, in order.
        state: the encoded server state.
        number: the number of this server state.
        merge: see `Worker.merge`.
        workers: number of workers; if there are many more jobs, some are joined, and if there are few, clients run alone.
    """

    def __init__(self, jobs: Iterable[Job], state: Buffers, number: int, merge: Merge, workers: int = 1) -> None:
        jobs = list(jobs)
        joined = join_jobs(jobs, workers)
        self._stride = len(joined[0].jobs) if joined and isinstance(joined[0], JoinedJob) else 1
        self.tasks = deque(Task(self, place * self._stride, job) for place, job in enumerate(joined))
        self.state, self.number, self.total, self.next_index = state, number, len(jobs), 0
        self.done: dict[int, Result] = {}
        self.error: Exception | None = None
        self._merge = merge
        self._num_lost: Counter[tuple[int, int | None]] = Counter()  # by index and position
        self._single_results: dict[int, SingleResults] = {}  # of jobs whose clients run alone
        if is_split(jobs, workers):
            self.tasks = deque(one for task in self.tasks for one in self._split(task))

    def job(self, task: Task) -> Job | JoinedJob:
        """Return the job to send; training jobs carry their attempt's number."""
        attempt = {"attempt": self._num_lost[task.index, task.position]}
        if isinstance(task.job, JoinedJob):
            return JoinedJob(tuple(replace(job, **attempt) for job in task.job.jobs))
        return replace(task.job, **attempt) if isinstance(task.job, TrainJob) else task.job

    def is_far_ahead(self, workers: int) -> bool:
        """Return True if the next task must wait for earlier results."""
        return self.tasks[0].index >= self.next_index + 2 * workers * self._stride

    def raise_if_failed(self) -> None:
        """Raise the exception of a job, if one failed.

        The batch forgets it: its traceback holds the batch, and their memory would stay until Python searches for cycles.
        """
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    def take(self, task: Task, parts: Buffers) -> None:
        """Store a worker process's answer: the result or exception of the job."""
        kind, content = decode_message(parts)
        if kind == "raised":
            self.error, trace = content
            content[0].add_note(f"in a worker process:\n{trace}")
        elif isinstance(task.job, JoinedJob):
            self.done |= {task.index + place: part for place, part in enumerate(content)}
        elif task.position is None:
            self.done[task.index] = content
        else:
            self._take_single(task, content)

    def lose(self, task: Task) -> None:
        """Retry a job whose worker process is lost, or store its failure.

        Joined jobs are retried one by one. After `MAX_ATTEMPTS` attempts the clients of a training job run alone, so that only
        one of them can fail.
        """
        if isinstance(task.job, JoinedJob):
            tasks = [Task(self, task.index + place, job) for place, job in enumerate(task.job.jobs)]
            self._num_lost.update((one.index, None) for one in tasks)
            return self.tasks.extendleft(reversed(tasks))
        self._num_lost[task.index, task.position] += 1
        num_lost = self._num_lost[task.index, task.position]
        if num_lost < MAX_ATTEMPTS or (task.position is not None and num_lost == MAX_ATTEMPTS):
            return self.tasks.appendleft(task)
        if task.position is not None:
            assert isinstance(task.job, TrainJob)
            reason = f"its worker process was lost {num_lost} times, the last time with this client alone"
            failures = (ClientFailure(task.job.clients[0], "lost_worker", reason),)
            return self._take_single(task, PartialAggregate(index=task.job.index, failures=failures))
        if isinstance(task.job, LossJob):
            reason = f"its worker process was lost {MAX_ATTEMPTS} times, {LOSS_QUERY}"
            failure = ClientFailure(task.job.client, "lost_worker", reason)
            self.done[task.index] = LossResult(task.job.client, float("nan"), failure)
            return None
        if isinstance(task.job, ExchangeJob):
            reason = f"its worker process was lost {MAX_ATTEMPTS} times in the exchange {task.job.exchange.name}"
            failures = tuple(ClientFailure(client, "lost_worker", reason) for client in task.job.clients)
            self.done[task.index] = ExchangeResult(failures=failures)
            return None
        if isinstance(task.job, EvaluateJob):  # a round cannot do without its evaluation
            self.error = LostWorkers(_evaluation_problem(task.job))
            return None
        single_tasks = [*self._split(task)]
        self._num_lost.update({(one.index, one.position): MAX_ATTEMPTS for one in single_tasks})
        return self.tasks.extendleft(reversed(single_tasks))

    def _split(self, task: Task) -> Iterator[Task]:
        """Yield a task for each client of a training job."""
        assert isinstance(task.job, TrainJob)
        self._single_results[task.index] = SingleResults(len(task.job.clients), self._merge)
        for position, job in enumerate(single_jobs(task.job)):
            yield replace(task, job=job, position=position)

    def _take_single(self, task: Task, partial: PartialAggregate) -> None:
        """Store the result of a client that ran alone."""
        assert task.position is not None
        result = self._single_results[task.index].take(task.position, partial)
        if result is not None:
            self.done[task.index] = result
            del self._single_results[task.index]


def _evaluation_problem(job: EvaluateJob) -> str:
    """The message for an evaluation whose worker process was lost too often."""
    owner = "the server's" if job.client is None else f"client {job.client}'s"
    return (
        f"round {job.round + 1} cannot be evaluated on {owner} {job.split} samples: its worker process was lost "
        f"{MAX_ATTEMPTS} times; reduce data.eval_batch_size or executor.workers, raise executor.wall_timeout_s, "
        "or use executor=inline"
    )
