"""Processes as an executor: the bits of inline, what can cross, on which GPUs."""

import logging
import os
import pickle
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryFile

import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, holdings, pairs
from plain import Plain
from small import with_own

from fedlit.aggregation.mean import merge
from fedlit.algorithms import FedAvg, FedRep, Finetune, Moon
from fedlit.client.trainer import ModuleReplica, TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError, LostWorkers
from fedlit.core.messages import ClientFailure, EvaluateJob, PartialAggregate, ServerState, TrainJob
from fedlit.executors import Auto, Processes
from fedlit.executors.dispatch import JobBatch
from fedlit.executors.resources import available_cores
from fedlit.executors.transport import LARGE, RAW, decode_message, deserialize_worker, encode_message, serialize_worker
from fedlit.server.federation import Federation
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import PowerOfChoice, Uniform
from fedlit.server.schedule import Schedule


def test_what_is_large_lies_in_a_file_that_all_map():
    large, small = torch.arange(LARGE, dtype=torch.float32), torch.arange(3)
    array = np.arange(LARGE, dtype=np.int64).reshape(2, -1)
    with TemporaryFile() as file:
        content = serialize_worker({"large": large, "small": small, "array": array, "again": large}, file)
        assert len(content) < 5000
        assert os.fstat(file.fileno()).st_size == 12 * LARGE
        back = deserialize_worker(content)
        assert torch.equal(back["large"], large)
        assert back["again"] is back["large"]
        assert torch.equal(back["small"], small)
        assert np.array_equal(back["array"], array)
        back["large"][0] = 7.0  # its own copy of the page
        assert deserialize_worker(content)["large"][0] == 0.0


def test_a_message_keeps_every_kind_of_tensor():
    sent = {
        "large": torch.randn(RAW, dtype=torch.float64),
        "half": torch.randn(RAW).bfloat16(),
        "number": torch.tensor(3),
        "truth": torch.tensor([True, False]),
        "none": torch.zeros(0),
        "other order": torch.randn(4, 3, 80, 80).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "array": np.arange(RAW),
    }
    parts = encode_message(sent)
    assert len(parts) == 4
    assert len(parts[0]) < 320_000
    back = decode_message([bytearray(part) for part in parts])
    for name, value in sent.items():
        assert type(back[name]) is type(value)
        assert back[name].dtype == value.dtype
        assert (back[name] == value).all()
    assert back["other order"].stride() == sent["other order"].stride()
    assert back["parameter"].requires_grad


def test_an_evaluation_that_is_lost_twice_is_an_error():
    for job, told in (
        (EvaluateJob(2, "val"), "round 3 cannot be evaluated on the server's val samples"),
        (EvaluateJob(0, "test", 5), "round 1 cannot be evaluated on client 5's test samples"),
    ):
        call = JobBatch([job], (), 1)
        call.lose(call.tasks.popleft())
        assert call.error is None
        call.lose(call.tasks.popleft())
        assert isinstance(call.error, LostWorkers)
        assert str(call.error).startswith(f"{told}: the worker process was lost 2 times; ")


def test_clients_of_a_chunk_that_is_lost_twice_run_alone_and_the_one_that_is_lost_again_is_left_out():
    call = JobBatch([TrainJob(0, 0, (30, 31, 32))], (), 1)
    for attempt in (0, 1):
        assert call.job(call.tasks[0]).attempt == attempt
        call.lose(call.tasks.popleft())
    first, *others = call.tasks
    assert [(task.job.clients, call.job(task).attempt) for task in call.tasks] == [((c,), 2) for c in (30, 31, 32)]
    for task in reversed(others):
        (client,) = task.job.clients
        partial = PartialAggregate(
            0, None, torch.tensor([client]).double(), 1.0, (client,), (), {"attempt": (2.0, 1.0)}
        )
        call.take(task, [bytearray(part) for part in encode_message(("done", partial))])
    assert not call.done
    call.lose(first)
    reason = "its worker process was lost 2 times with others and once alone"
    assert call.done[0].failures == (ClientFailure(30, "lost_worker", reason),)
    assert (call.done[0].total.item(), call.done[0].members) == (31 + 32, (31, 32))
    assert call.done[0].metrics["attempt"] == (4.0, 2.0)


def test_joined_partials_are_those_of_one_worker_bit_for_bit():
    fed = federation(clients=5, norm="batch")
    state = ServerState(0, {"model": fed.initial})
    whole = fed.worker(TrainJob(0, 3, (0, 1, 2, 3, 4)), state)
    parts = merge([fed.worker(TrainJob(0, 3, (client,)), state) for client in range(5)])
    assert torch.equal(whole.total, parts.total)
    assert (whole.weight, whole.members, whole.metrics, whole.bytes) == (
        parts.weight,
        parts.members,
        parts.metrics,
        parts.up_bytes,
    )


def test_a_federation_is_pickled_with_its_module_and_does_the_same():
    fed = federation(norm="batch")
    with TemporaryFile() as file:
        again = deserialize_worker(serialize_worker(fed.worker, file))
    state = ServerState(0, {"model": fed.initial})
    assert torch.equal(fed.worker(TrainJob(0, 0, (1,)), state).total, again(TrainJob(0, 0, (1,)), state).total)


@pytest.mark.parametrize(
    ("key", "value"), [("workers", 0), ("workers", "all"), ("threads", 0), ("per_gpu", 0), ("wall_timeout_s", 0.0)]
)
@pytest.mark.parametrize("executor", [Processes, Auto])
def test_wrong_values_are_named(executor, key, value):
    with pytest.raises(ConfigError) as error:
        executor(**{key: value})
    assert error.value.key == key


@pytest.mark.parametrize(
    ("workers", "per_gpu", "chosen", "seen"),
    [
        ("auto", 1, None, ["0", "1"]),
        ("auto", 2, None, ["0", "1", "0", "1"]),
        ("auto", 1, "3, GPU-8f2a", ["3", "GPU-8f2a"]),
        ("auto", 1, "5,1,7", ["5", "1"]),  # the driver counts two: it stops at a GPU that is not there
        (3, 1, "4,6", ["4", "6", "4"]),
    ],
)
def test_each_process_sees_one_of_the_gpus_that_this_one_sees(monkeypatch, workers, per_gpu, chosen, seen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    executor = Processes(workers, per_gpu=per_gpu)
    assert executor.gpus(torch.device("cuda", 0)) == seen
    assert executor.gpus(torch.device("cpu")) == [None] * (available_cores() if workers == "auto" else workers)
    assert executor.gpus(torch.device("mps")) == [None] * (per_gpu if workers == "auto" else workers)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_processes_on_a_gpu_have_the_samples_there():
    fed = federation(recipe=TrainerConfig({"accelerator": "cuda"}))
    fed = replace(fed, worker=fed.worker.placed(torch.device("cuda", 0)))
    plain = [record.sha256 for record in fed.run()]
    assert [record.sha256 for record in replace(fed, executor=Processes(per_gpu=2)).run()] == plain


def many(algorithm, clients=70, rounds=2):
    """Seventy quadratic clients, in chunks of two; what one sends is not a number."""
    rows = [(1.0 + client % 7, float(client) if client != 20 else float("inf")) for client in range(clients)]
    bench = ModuleReplica(Quadratic(1.0, momentum=0.9))
    worker = ClientWorker(
        algorithm,
        bench,
        TrainerConfig({"accelerator": "cpu"}, steps=2, keep_optimizer=True),
        holdings(pairs(*rows), range(clients)),
    )
    schedule = Schedule(rounds=rounds, client_fraction=1.0)
    return Federation(bench.read(), worker, Uniform(clients), schedule, 0, monitor=Monitor(None))


@dataclass(frozen=True)
class Several:
    """Workers of several federations, to share processes, which take seconds to start; the state says whose job it is."""

    workers: tuple[ClientWorker, ...]
    device = torch.device("cpu")

    def placed(self, device):
        return replace(self, workers=tuple(worker.on_device(device) for worker in self.workers))

    def __call__(self, job, state):
        return self.workers[int(state.shared["which"]["number"])](job, state)


@dataclass(frozen=True)
class Shared:
    """An executor that is open already."""

    execute: object
    which: int

    def gpus(self, device):
        return [None, None]

    @contextmanager
    def open(self, worker, rounds):
        yield lambda jobs, state: self.execute(jobs, state.set(which={"number": torch.tensor(self.which)}))


def told(record):
    times = [name for name in record.metrics if name.startswith("time/")]
    return record.sha256, record.failures, {name: value for name, value in record.metrics.items() if name not in times}


@pytest.mark.slow
def test_the_bits_are_inlines_whatever_the_cohort_and_where_a_run_moves_to_processes_on_its_way(caplog, monkeypatch):
    few = federation(clients=10, cohort=3, norm="batch")
    feds = [many(FedAvg()), few, replace(few, sampler=PowerOfChoice(3, candidates=7))]
    feds += [with_own(FedRep(inner=Moon(), head_epochs=1), rounds=2), with_own(Finetune(), rounds=1)]
    plain = [[told(record) for record in fed.run()] for fed in feds]
    assert [failure.client for failure in plain[0][0][1]] == [20]
    with Processes(2).open(Several(tuple(fed.worker for fed in feds)), 1) as execute:
        for which, fed in enumerate(feds):
            fed = replace(fed, executor=Shared(execute, which))
            assert [told(record) for record in fed.run()] == plain[which]
        monkeypatch.setattr(
            Auto, "_processes", lambda self: Shared(execute, 1)
        )  # in place of others that take long to start
        monkeypatch.setattr("fedlit.executors.auto.cores", lambda: 2)
        with caplog.at_level(logging.INFO, "fedlit"):
            moved = [told(record) for record in replace(few, executor=Auto(start_s=0.0)).run()]
    assert "executor=auto takes 2 processes from round 2 on" in caplog.text
    assert moved == plain[1]


@pytest.mark.slow
def test_what_another_process_cannot_have_runs_inline_and_is_told(caplog, monkeypatch):
    Hidden = type("Hidden", (Plain,), {"__module__": "__main__"})  # noqa: N806
    monkeypatch.setattr("__main__.Hidden", Hidden, raising=False)
    pickle.dumps(Hidden(torch.arange(3)))
    state = ServerState(0, {"model": {"w": torch.tensor(2.0)}})
    with Processes(1).open(Hidden(torch.arange(3)), 1) as execute:
        (partial,) = execute([TrainJob(0, 0, (3, 4))], state)
    assert partial.total.item() == 2.0 * (3 + 4)
    assert partial.metrics["pid"] == (float(os.getpid()), 1.0)
    assert "runs inline" in caplog.text
