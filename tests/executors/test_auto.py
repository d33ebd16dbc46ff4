"""The choice between this process and worker processes: by the size of the work, logged once, bit-identical to inline."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from plain import plain_state

from fedlit.core.messages import EvaluateJob, PartialAggregate, TrainJob
from fedlit.executors import Auto, Inline, Processes, auto, processes
from fedlit.executors.processes import makespan


class SimulatedWorker:
    """A worker whose jobs take one simulated second for each client, and none for an evaluation."""

    device = torch.device("cpu")

    def __init__(self):
        self.now, self.places = 0.0, []

    def __call__(self, job, state):
        self.now += len(job.clients) if isinstance(job, TrainJob) else 0.0
        return PartialAggregate(index=0)


@pytest.fixture
def worker(monkeypatch):
    """A worker on a machine with four cores; `places` lists the starts and the ends of worker processes."""
    worker = SimulatedWorker()
    monkeypatch.setattr(auto, "time", SimpleNamespace(perf_counter=lambda: worker.now))
    monkeypatch.setattr(processes, "available_cores", lambda: 4)

    @contextmanager
    def open(self, worker, rounds):
        worker.places.append(f"{self.workers} for {rounds}")
        yield lambda jobs, state: (worker(job, state) for job in jobs)
        worker.places.append("closed")

    monkeypatch.setattr(Processes, "open", open)
    return worker


def run(executor, worker, rounds, clients):
    """Run `rounds` rounds with `clients` clients each."""
    with executor.open(worker, rounds) as execute:
        for round in range(7, 7 + rounds):  # a resumed run does not begin at 0
            list(
                execute(
                    [TrainJob(round, client, (client,)) for client in range(clients)], plain_state(0.0, round=round)
                )
            )
            list(execute([EvaluateJob(round, "val")], plain_state(0.0, round=round + 1)))


def test_auto_takes_worker_processes_that_save_clearly_more_time_than_they_cost(worker, caplog):
    with caplog.at_level(logging.INFO, "fedlit"):
        run(Auto(workers=3), worker, rounds=10, clients=6)
    assert worker.places == ["3 for 9", "closed"]
    (line,) = caplog.records
    assert (line.name, line.levelname) == ("fedlit", "INFO")
    assert line.message == (
        "executor=auto takes 3 worker processes from round 2 on: the remaining 9 rounds need about 54.0 s in this process, "
        "or 18.0 s in 3 worker processes after a start of 6 s"
    )


@pytest.mark.parametrize(
    ("workers", "rounds", "clients", "reason"),
    [
        (4, 10, 1, "a round has one client"),
        (1, 10, 6, "there is one core"),
        (4, 1, 6, "there is one round"),
        (4, 3, 6, "need about 12.0 s in this process, or 4.0 s in 4 worker processes after a start of 6 s"),
        (9, 3, 12, "need about 24.0 s in this process, or 6.0 s in 9 worker processes after a start of 18 s"),
    ],
)
def test_auto_keeps_this_process_otherwise_and_logs_the_reason(worker, caplog, workers, rounds, clients, reason):
    with caplog.at_level(logging.INFO, "fedlit"):
        run(Auto(workers=workers), worker, rounds, clients)
    assert worker.places == []
    (line,) = caplog.records
    assert line.message.startswith("executor=auto takes this process")
    assert line.message.endswith(reason)


def test_auto_chooses_again_when_later_rounds_take_longer(worker, caplog):
    with caplog.at_level(logging.INFO, "fedlit"), Auto(workers=2).open(worker, 9) as execute:
        for round, clients in enumerate([2, 2, 30, 30]):
            list(
                execute(
                    [TrainJob(round, client, (client,)) for client in range(clients)], plain_state(0.0, round=round)
                )
            )
    assert worker.places == ["2 for 6", "closed"]
    assert ["this process" in line.message[:35] for line in caplog.records] == [True, False]


def test_makespan_is_the_end_of_the_last_worker():
    assert makespan([5.0, 3.0, 3.0, 1.0], 2) == 6.0
    assert makespan([5.0], 2) == 5.0
    assert makespan([], 2) == 0.0


def test_auto_restores_the_threads_and_raises_the_error_of_a_job(worker):
    previous = torch.get_num_threads()

    def broken(job, state):
        raise ZeroDivisionError(torch.get_num_threads())

    broken.device = worker.device
    with pytest.raises(ZeroDivisionError, match="3"):  # noqa: SIM117
        with Auto(threads=3, workers=2).open(broken, 5) as execute:
            list(execute([TrainJob(0, 0, (0, 1))], plain_state(0.0)))
    assert torch.get_num_threads() == previous


CPU = torch.device("cpu")
ROUNDS = [[[3.0, 1.0, 2.0], [1.0]]] * 10
"""Ten rounds: three clients, then an evaluation."""


@pytest.mark.parametrize(
    ("executor", "seconds"),
    [
        (Inline(), 70.0),
        (Processes(2), 6.0 + 10 * (3.0 + 1.0)),
        (Processes(9), 3 * 6.0 + 10 * (3.0 + 1.0)),  # three for each core start one after the other
        (Auto(2), 7.0 + 6.0 + 9 * (3.0 + 1.0)),  # from round 2 on
        (Auto(2, start_s=30.0), 70.0),
    ],
)
def test_the_estimate_of_an_executor_is_that_of_its_schedule(worker, executor, seconds):
    assert executor.estimate_seconds(ROUNDS, CPU) == pytest.approx(seconds)
