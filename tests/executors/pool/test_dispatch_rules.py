"""The rules of the pool about jobs and processes, on simulated processes: nothing depends on time."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from plain import plain_state

from fedlit.aggregation import MeanAggregator
from fedlit.aggregation.aggregator import merge
from fedlit.core.errors import LostWorkers
from fedlit.core.messages import PartialAggregate, TrainJob
from fedlit.executors.pool import worker_pool
from fedlit.executors.pool.transport import encode_message
from fedlit.executors.pool.worker_pool import MAX_FAILED_STARTS, WorkerPool

STATE = plain_state(1.0)


class SimulatedProcess:
    """A process that notes its jobs."""

    def __init__(self, setup=(), descriptor=-1, gpu=None):
        self.gpu, self.task, self.is_ready, self.jobs = gpu, None, True, []
        self.process = SimpleNamespace(pid=0, returncode=1)

    def assign(self, task):
        self.task = task
        self.jobs.append(task.index)

    def kill(self):
        pass


def merge_means(parts):
    return merge(MeanAggregator(), list(parts))


def answer(process):
    """The answer of a process to its job."""
    index = process.task.index
    partial = PartialAggregate(index=index, total=torch.tensor([1.0]), weight=1.0, members=(index,))
    return process, [bytearray(part) for part in encode_message(("done", partial))]


def test_at_most_twice_as_many_jobs_as_processes_are_ahead_of_the_first_without_a_result(monkeypatch):
    pool, blocked, other = WorkerPool(-1, None, merge_means), SimulatedProcess(), SimulatedProcess()
    pool._workers = [blocked, other]
    ahead = []

    def wait():
        """The second process answers as long as it has a job, the first one only then."""
        if other.task is not None:
            return [answer(other)]
        ahead.append(max(blocked.jobs + other.jobs) - blocked.task.index)
        return [answer(blocked)]

    monkeypatch.setattr(pool, "_wait", wait)
    results = list(pool.execute([TrainJob(0, index, (index,)) for index in range(20)], STATE))
    assert [result.members for result in results] == [(index,) for index in range(20)]
    assert max(ahead) == 3


def test_processes_that_end_while_they_start_end_the_run_and_are_not_replaced_for_ever(monkeypatch):
    started = []

    def start(*arguments):
        process = SimulatedProcess(*arguments)
        process.is_ready = False
        started.append(process)
        assert len(started) < 10
        return process

    monkeypatch.setattr(worker_pool, "WorkerProcess", start)
    pool = WorkerPool(-1, None, merge_means)
    pool._workers = [start()]
    monkeypatch.setattr(pool, "_wait", lambda: [(pool._workers[0], None)])
    with pytest.raises(LostWorkers, match=f"{MAX_FAILED_STARTS} worker processes ended while they started"):
        list(pool.execute([TrainJob(0, 0, (0,))], STATE))
    assert len(started) == MAX_FAILED_STARTS


def test_a_start_that_succeeds_ends_the_count_of_failed_starts(monkeypatch):
    """Two processes end, one starts, is lost at work, and two more end: never three in a row."""
    fates = iter(["ends", "ends", "starts", "ends", "ends", "starts"])
    pool = WorkerPool(-1, None, merge_means)

    def start(*arguments):
        process = SimulatedProcess(*arguments)
        process.is_ready, process.fate = False, next(fates)
        process.confirm_start = lambda parts: setattr(process, "is_ready", True)
        return process

    losses = iter([True, False])

    def wait():
        (process,) = pool._workers
        if not process.is_ready:
            return [(process, None if process.fate == "ends" else [b""])]
        return [(process, None)] if next(losses) else [answer(process)]

    monkeypatch.setattr(worker_pool, "WorkerProcess", start)
    monkeypatch.setattr(pool, "_wait", wait)
    pool._workers = [start()]
    assert [result.members for result in pool.execute([TrainJob(0, 0, (0,))], STATE)] == [(0,)]


class JobError(Exception):
    """An exception that can be followed."""


def test_a_raised_error_keeps_nothing_of_its_batch_in_memory(monkeypatch):
    pool, process = WorkerPool(-1, None, merge_means), SimulatedProcess()
    pool._workers = [process]
    raised = [bytearray(part) for part in encode_message(("raised", (JobError("of a client"), "trace")))]
    monkeypatch.setattr(pool, "_wait", lambda: [(process, raised)])
    gc.disable()
    try:
        with pytest.raises(JobError) as caught:
            list(pool.execute([TrainJob(0, 0, (0,))], STATE))
        error = weakref.ref(caught.value)
        assert error().__notes__ == ["in a worker process:\ntrace"]
        del caught
        assert error() is None
    finally:
        gc.enable()
