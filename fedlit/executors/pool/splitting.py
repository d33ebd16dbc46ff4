"""Training jobs whose clients run alone.

This happens if there are many workers, or if a worker was lost twice with a job.
The results of such clients are merged from the left, as one worker adds them. So the sum stays bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fedlit.core.messages import Job, PartialAggregate, TrainJob

SPLIT_BELOW = 2
"""Jobs for each worker below which clients run alone: otherwise workers would have no work, or one job more than others."""

MAX_SPLIT = 128
"""Largest number of jobs that are split: each client sends a sum, and the server receives them all."""

Merge = Callable[[Sequence[PartialAggregate]], PartialAggregate]


def is_split(jobs: Sequence[Job], workers: int) -> bool:
    """True if there are so many workers that clients run alone.

    Args:
        jobs: the jobs of a phase.
        workers: number of workers, >= 1.
    """
    can_split = all(isinstance(job, TrainJob) and not job.is_stack for job in jobs)
    has_several = any(isinstance(job, TrainJob) and len(job.clients) > 1 for job in jobs)
    return workers > 1 and can_split and has_several and len(jobs) < min(SPLIT_BELOW * workers, MAX_SPLIT + 1)


def single_jobs(job: TrainJob) -> list[TrainJob]:
    """A job for each client of a job."""
    return [
        replace(
            job,
            clients=(client,),
            client_states={client: job.client_states[client]} if client in job.client_states else {},
            budgets={client: job.budgets[client]} if client in job.budgets else {},
            exchange=None if job.exchange is None else job.exchange.of((client,)),
        )
        for client in job.clients
    ]


class SingleResults:
    """The results of a job's clients that run alone.

    As soon as the results before it are there, each is merged with them. So few sums are in memory.

    Args:
        count: number of clients.
        merge: see `Worker.merge`.
    """

    def __init__(self, count: int, merge: Merge) -> None:
        self._count, self._merge = count, merge
        self._next, self._merged = 0, list[PartialAggregate]()
        self._later: dict[int, PartialAggregate] = {}

    def take(self, position: int, partial: PartialAggregate) -> PartialAggregate | None:
        """Take a client's result; return the job's once it is complete.

        Args:
            position: place of the client among those of the job.
            partial: its result.
        """
        self._later[position] = partial
        while self._next in self._later:
            self._merged = [self._merge([*self._merged, self._later.pop(self._next)])]
            self._next += 1
        return self._merged[0] if self._next == self._count else None
