"""Joined jobs: which are joined, their results, and their retries."""

import numpy as np
import pytest
import torch
from plain import plain_state
from shared_processes import merge_means

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.aggregator import ReductionTree
from fedlit.aggregation.jobs import make_train_jobs
from fedlit.core.messages import EvaluateJob, PartialAggregate
from fedlit.executors.pool import joining
from fedlit.executors.pool.dispatch import JobBatch
from fedlit.executors.pool.joining import JoinedJob, join_jobs, run_job
from fedlit.executors.pool.transport import encode_message

STATE = plain_state(2.0)


class Adds:
    """Adds up 32 numbers of each client."""

    def merge(self, parts):
        return merge_means(parts)

    def __call__(self, job, state):
        numbers = [np.random.default_rng(client).normal(size=32) * 10.0 ** (client % 9) for client in job.clients]
        total, members = torch.tensor(sum(numbers[1:], numbers[0])), job.clients
        return PartialAggregate(index=job.index, total=total, weight=sum(1 / 3 for _ in members), members=members)


def answer(worker, batch, task, state=STATE):
    """Run a task and give its result to the batch, as another process would."""
    result = run_job(worker, batch.job(task), state)
    batch.take(task, [bytearray(part) for part in encode_message(("done", result))])


@pytest.mark.parametrize(
    ("clients", "workers", "count", "size"),
    [
        (64, 1, 64, 1),
        (512, 1, 128, 1),
        (513, 1, 65, 2),
        (10_000, 16, 79, 32),
        (10_000, 64, 157, 16),
        (10_000, 999, 2500, 1),
    ],
)
def test_the_number_of_joined_jobs_grows_with_the_workers(clients, workers, count, size):
    jobs = make_train_jobs(0, range(clients))
    joined = join_jobs(jobs, workers)
    parts = [job.jobs if isinstance(job, JoinedJob) else (job,) for job in joined]
    assert (len(joined), max(map(len, parts))) == (count, size)
    assert [job for part in parts for job in part] == jobs
    assert all(part[0].index % size == 0 and len(part) == size for part in parts[:-1])


def test_other_jobs_are_not_joined():
    jobs = [EvaluateJob(0, "test", client) for client in range(1000)]
    assert join_jobs(jobs, 1) == jobs


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_joined_jobs_give_the_results_of_their_jobs_also_after_they_are_lost(monkeypatch, lost):
    monkeypatch.setattr(joining, "MIN_JOBS", 8)
    worker, jobs = Adds(), make_train_jobs(0, range(150))  # 50 jobs of 3 clients
    batch = JobBatch(jobs, (), 1, merge_means, workers=1)
    assert [len(task.job.jobs) for task in batch.tasks] == [8, 8, 8, 8, 8, 8, 2]
    assert [task.index for task in batch.tasks] == [0, 8, 16, 24, 32, 40, 48]
    for attempt in range(lost):
        task = batch.tasks.popleft()
        given = batch.job(task)
        assert {job.attempt for job in (given.jobs if isinstance(given, JoinedJob) else [given])} == {attempt}
        batch.lose(task)
    while batch.tasks:
        answer(worker, batch, batch.tasks.popleft())
    trees = ReductionTree(MeanAggregator()), ReductionTree(MeanAggregator())
    for index, job in enumerate(jobs):
        trees[0].add(worker(job, state=STATE))
        trees[1].add(batch.done[index])
    (total, weight), (joined, joined_weight) = (tree.root() for tree in trees)
    assert (weight, trees[0].members) == (joined_weight, trees[1].members)
    assert torch.equal(total, joined)
    assert not torch.equal(total, sum(worker(job, state=STATE).total for job in jobs))  # another order shows


def test_a_worker_that_is_far_ahead_waits(monkeypatch):
    monkeypatch.setattr(joining, "MIN_JOBS", 4)
    batch = JobBatch(make_train_jobs(0, range(64)), (), 1, merge_means, workers=2)
    taken = []
    while not batch.is_far_ahead(2):
        taken.append(batch.tasks.popleft().index)
    assert taken == [0, 8, 16, 24]
