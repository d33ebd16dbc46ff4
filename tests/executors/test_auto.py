"""The choice between this process and others: by the size of the work, told once, with the bits of inline."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from fedlit.core.messages import EvaluateJob, PartialAggregate, ServerState, TrainJob
from fedlit.executors import Auto, Processes, auto
from fedlit.executors.auto import makespan


class Clocked:
    """A worker whose jobs take a second for each client, and none to evaluate, by a clock of their own."""

    device = torch.device("cpu")

    def __init__(self):
        self.now, self.places = 0.0, []

    def __call__(self, job, state):
        self.now += len(job.clients) if isinstance(job, TrainJob) else 0.0
        return PartialAggregate(0)


@pytest.fixture
def worker(monkeypatch):
    """A worker on a machine with four cores; `places` says for each round where its jobs were done."""
    worker = Clocked()
    monkeypatch.setattr(auto, "time", SimpleNamespace(perf_counter=lambda: worker.now))
    monkeypatch.setattr(auto, "available_cores", lambda: 4)

    @contextmanager
    def open(self, worker, rounds):
        worker.places.append(f"{self.workers} for {rounds}")
        yield lambda jobs, state: (worker(job, state) for job in jobs)
        worker.places.append("closed")

    monkeypatch.setattr(Processes, "open", open)
    return worker


def run(executor, worker, rounds, clients):
    """What was logged in so many rounds of an executor with so many clients each."""
    with executor.open(worker, rounds) as execute:
        for round in range(7, 7 + rounds):  # a run that goes on does not begin at 0
            list(execute([TrainJob(round, client, (client,)) for client in range(clients)], ServerState(round, {})))
            list(execute([EvaluateJob(round, "val")], ServerState(round + 1, {})))


def test_it_takes_processes_when_they_save_clearly_more_than_they_cost(worker, caplog):
    with caplog.at_level(logging.INFO, "fedlit"):
        run(Auto(workers=3), worker, rounds=10, clients=6)
    assert worker.places == ["3 for 9", "closed"]
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("fedlit", "INFO")
    assert line.message == (
        "executor=auto takes 3 processes from round 2 on: the 9 rounds to come should take 54.0 s in this process and 18.0 s "
        "in 3 others, which take about 6 s to start"
    )


@pytest.mark.parametrize(
    ("workers", "rounds", "clients", "why"),
    [
        (4, 10, 1, "a round has one client"),
        (1, 10, 6, "there is one core"),
        (4, 1, 6, "there is one round"),
        (4, 3, 6, "should take 12.0 s in this process and 4.0 s in 4 others, which take about 6 s to start"),
        (9, 3, 12, "should take 24.0 s in this process and 6.0 s in 9 others, which take about 18 s to start"),
    ],
)
def test_it_stays_where_it_is_when_they_do_not_and_says_why(worker, caplog, workers, rounds, clients, why):
    with caplog.at_level(logging.INFO, "fedlit"):
        run(Auto(workers=workers), worker, rounds, clients)
    assert worker.places == []
    (line,) = caplog.records
    assert line.message.startswith("executor=auto takes this process")
    assert line.message.endswith(why)


def test_it_thinks_again_when_later_rounds_take_longer(worker, caplog):
    with caplog.at_level(logging.INFO, "fedlit"), Auto(workers=2).open(worker, 9) as execute:
        for round, clients in enumerate([2, 2, 30, 30]):
            list(execute([TrainJob(round, client, (client,)) for client in range(clients)], ServerState(round, {})))
    assert worker.places == ["2 for 6", "closed"]
    assert ["this process" in line.message[:35] for line in caplog.records] == [True, False]


def test_seconds_until_the_last_worker_is_done():
    assert makespan([5.0, 3.0, 3.0, 1.0], 2) == 6.0
    assert makespan([5.0], 2) == 5.0
    assert makespan([], 2) == 0.0


def test_the_threads_are_put_back_and_what_a_job_raises_is_raised(worker):
    before = torch.get_num_threads()

    def broken(job, state):
        raise ZeroDivisionError(torch.get_num_threads())

    broken.device = worker.device
    with pytest.raises(ZeroDivisionError, match="3"):  # noqa: SIM117
        with Auto(threads=3, workers=2).open(broken, 5) as execute:
            list(execute([TrainJob(0, 0, (0, 1))], ServerState(0, {})))
    assert torch.get_num_threads() == before
