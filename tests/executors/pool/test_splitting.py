"""Clients that run alone on many workers: which do, their jobs, and their sum."""

import random

import pytest
import torch
from conftest import federation
from shared_processes import merge_means
from test_joining import Adds, answer

from fedlit.aggregation.aggregator import ReductionTree
from fedlit.aggregation.jobs import make_train_jobs
from fedlit.core.messages import EvaluateJob, Exchange, ExchangeJob, PartialAggregate, TrainJob
from fedlit.executors.pool.dispatch import JobBatch
from fedlit.executors.pool.splitting import SingleResults, single_jobs
from fedlit.executors.vectorized.groups import group_jobs


@pytest.mark.parametrize(
    ("clients", "workers", "count"),
    [(100, 25, 50), (100, 26, 100), (256, 32, 64), (256, 33, 256), (512, 64, 128), (512, 65, 512), (513, 999, 129)],
)
def test_clients_of_few_jobs_run_alone_if_there_are_fewer_than_two_for_each_worker(clients, workers, count):
    batch = JobBatch(make_train_jobs(0, range(clients)), (), 1, merge_means, workers)
    assert len(batch.tasks) == count
    assert [client for task in batch.tasks for client in task.job.clients] == [*range(clients)]


@pytest.mark.parametrize(
    "jobs",
    [
        group_jobs(make_train_jobs(0, range(100)), 25),  # the clients of a stack train together
        [EvaluateJob(0, "test")],
        [ExchangeJob(0, (1, 2), Exchange(1, "keys"))],
        make_train_jobs(0, range(64)),  # one client each
        [],
    ],
)
def test_other_jobs_are_not_split(jobs):
    batch = JobBatch(jobs, (), 1, merge_means, workers=999)
    assert [(task.job, task.position) for task in batch.tasks] == [(job, None) for job in jobs]


def test_a_single_job_has_what_belongs_to_its_client_alone():
    exchange = Exchange(2, "sum", {5: b"five", 6: b"six"}, {6: {"mask": torch.ones(1)}})
    job = TrainJob(3, 9, (5, 6), {6: {"momentum": {}}}, {5: 7}, exchange=exchange)
    assert single_jobs(job) == [
        TrainJob(3, 9, (5,), {}, {5: 7}, exchange=Exchange(2, "sum", {5: b"five"}, {})),
        TrainJob(3, 9, (6,), {6: {"momentum": {}}}, {}, exchange=exchange.of((6,))),
    ]


def test_the_sum_of_clients_that_ran_alone_is_bit_identical():
    fed = federation(clients=8, norm="batch")
    jobs, state = [TrainJob(0, 0, (0, 1, 2, 3)), TrainJob(0, 1, (4, 5, 6, 7))], fed.initial_state()
    trees = []
    for workers in (1, 9):
        batch = JobBatch(jobs, (), 1, fed.worker.merge, workers)
        tree = ReductionTree(fed.worker.channel.summation(fed.worker.aggregator))
        tasks = [*batch.tasks]
        random.Random(0).shuffle(tasks)
        for task in tasks:
            answer(fed.worker, batch, task, state)
        for index in range(2):
            tree.add(batch.done[index])
        trees.append(tree)
    (whole, weight), (merged, merged_weight) = (tree.root() for tree in trees)
    assert torch.equal(whole, merged)
    for name in ("members", "up_bytes", "steps", "sum_of_squares", "norms", "plain_bytes"):
        assert getattr(trees[0], name) == getattr(trees[1], name)
    assert (weight, trees[0].metrics()) == (merged_weight, trees[1].metrics())
    assert all(torch.equal(trees[0].sketches[client], trees[1].sketches[client]) for client in range(8))


def test_results_are_merged_from_the_left_as_they_come():
    merged = []

    def merge(parts):
        merged.append([part.members for part in parts])
        return merge_means(parts)

    results = SingleResults(4, merge)
    for position in (2, 0, 1):
        assert results.take(position, PartialAggregate(index=0, members=(position,))) is None
    assert merged == [[(0,)], [(0,), (1,)], [(0, 1), (2,)]]
    assert results.take(3, PartialAggregate(index=0, members=(3,))).members == (0, 1, 2, 3)


def test_a_client_that_ran_alone_is_left_out_when_its_worker_is_lost_three_times():
    batch = JobBatch(make_train_jobs(0, range(100)), (), 1, merge_means, workers=99)
    lost = batch.tasks.popleft()
    for attempt in range(3):
        assert batch.job(lost).attempt == attempt
        batch.lose(lost)
        assert (batch.tasks[0] is lost) == (attempt < 2)
        if attempt < 2:
            batch.tasks.popleft()
    answer(Adds(), batch, batch.tasks.popleft())
    (failure,), members = batch.done[0].failures, batch.done[0].members
    assert (failure.client, failure.outcome, members) == (0, "lost_worker", (1,))
    assert failure.reason == "its worker process was lost 3 times, the last time with this client alone"
    assert batch.job(batch.tasks[0]).attempt == 0
