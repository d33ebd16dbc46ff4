"""Training jobs that one worker executes together.

A round of many clients has many more jobs than workers. Each worker then adds the sums of consecutive jobs, as the server
would add them. So less crosses to the server, and the number of workers does not change the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedlit.aggregation.sum_tree import SumTree
from fedlit.core.messages import Job, PartialAggregate, ServerState, TrainJob

MIN_JOBS = 128
"""Number of jobs up to which none are joined."""

JOBS_PER_WORKER = 4
"""Jobs for each worker that stay if jobs are joined: uneven ones then take about the same time."""


@dataclass(frozen=True)
class JoinedJob:
    """Training jobs that one worker executes one after the other.

    Args:
        jobs: jobs with consecutive indices, 2^h of them, the first one's index a multiple of 2^h; the last ones of a round may
            be fewer.
    """

    jobs: tuple[TrainJob, ...]


def join_jobs(jobs: Iterable[Job], workers: int) -> list[Job | JoinedJob]:
    """Join the training jobs of a round if they are many.

    Args:
        jobs: the jobs of a phase, in order.
        workers: number of workers, >= 1.
    """
    jobs, size = list(jobs), 1
    while -(-len(jobs) // size) > max(MIN_JOBS, JOBS_PER_WORKER * workers):
        size *= 2
    train_jobs = [job for job in jobs if isinstance(job, TrainJob)]
    if size == 1 or len(train_jobs) < len(jobs):
        return [*jobs]
    return [JoinedJob(tuple(train_jobs[i : i + size])) for i in range(0, len(jobs), size)]


def run_job(worker: Any, job: Job | JoinedJob, state: ServerState) -> Any:
    """Run a job, or joined jobs.

    Returns:
        The result of the job; a list of those of joined jobs, of which the first one has the sum of all.
    """
    if not isinstance(job, JoinedJob):
        return worker(job, state=state)

    def merge(left: Tensor, right: Tensor) -> Tensor:
        total = worker.merge([PartialAggregate(index=0, total=total) for total in (left, right)]).total
        assert total is not None
        return total

    tree, parts = SumTree(merge), []
    for one in job.jobs:
        partial = worker(one, state=state)
        tree.push(0, partial.total, partial.weight)
        parts.append(replace(partial, total=None, weight=0.0, height=None))
    return _with_sum(parts, tree)


def _with_sum(parts: Sequence[PartialAggregate], tree: SumTree) -> list[PartialAggregate]:
    """Return the parts, with the sum of all in the first."""
    total, weight = tree.root()
    first = replace(parts[0], total=total, weight=weight, height=(len(parts) - 1).bit_length())
    return [first, *parts[1:]]
