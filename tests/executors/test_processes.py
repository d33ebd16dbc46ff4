"""The executor `Processes`: results bit-identical to inline, transport, GPUs."""

import logging
import os
from dataclasses import dataclass, replace
from tempfile import TemporaryFile

import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, holdings, pairs
from parametrized import PARAMETRIZATIONS, Regression, federation_of, worker_of
from plain import Plain, plain_state
from shared_processes import Several, SharedProcesses, comparable, merge_means
from small import with_own

from fedlit.algorithms import FedAvg, FedRep, Finetune, Moon
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError, LostWorkers
from fedlit.core.messages import ClientFailure, EvaluateJob, LossJob, PartialAggregate, TrainJob
from fedlit.executors import Auto, Processes
from fedlit.executors.pool.dispatch import JobBatch
from fedlit.executors.pool.transport import (
    LARGE,
    RAW,
    decode_message,
    deserialize_worker,
    encode_message,
    serialize_worker,
)
from fedlit.executors.resources import available_cores
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import PowerOfChoice, Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation


def test_large_tensors_and_arrays_of_a_worker_lie_in_a_mapped_file():
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
        back["large"][0] = 7.0  # writes to a copy of the page
        assert deserialize_worker(content)["large"][0] == 0.0


def test_a_message_keeps_every_kind_of_tensor():
    message = {
        "large": torch.randn(RAW, dtype=torch.float64),
        "half": torch.randn(RAW).bfloat16(),
        "number": torch.tensor(3),
        "truth": torch.tensor([True, False]),
        "none": torch.zeros(0),
        "other order": torch.randn(4, 3, 80, 80).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "array": np.arange(RAW),
    }
    parts = encode_message(message)
    assert len(parts) == 4
    assert len(parts[0]) < 320_000
    back = decode_message([bytearray(part) for part in parts])
    for name, value in message.items():
        assert type(back[name]) is type(value)
        assert back[name].dtype == value.dtype
        assert (back[name] == value).all()
    assert back["other order"].stride() == message["other order"].stride()
    assert back["parameter"].requires_grad


def test_evaluation_whose_process_is_lost_twice_is_an_error():
    for job, problem in (
        (EvaluateJob(2, "val"), "round 3 cannot be evaluated on the server's val samples"),
        (EvaluateJob(0, "test", 5), "round 1 cannot be evaluated on client 5's test samples"),
    ):
        batch = JobBatch([job], (), 1, merge_means)
        batch.lose(batch.tasks.popleft())
        assert batch.error is None
        batch.lose(batch.tasks.popleft())
        assert isinstance(batch.error, LostWorkers)
        assert str(batch.error).startswith(f"{problem}: its worker process was lost 2 times; ")


def test_a_loss_whose_process_is_lost_twice_is_a_failure_of_its_client():
    batch = JobBatch([LossJob(2, 7)], (), 1, merge_means)
    batch.lose(batch.tasks.popleft())
    assert not batch.done
    batch.lose(batch.tasks.popleft())
    assert not batch.tasks
    assert (batch.done[0].client, batch.done[0].failure.outcome) == (7, "lost_worker")
    assert batch.done[0].failure.reason.startswith("its worker process was lost 2 times")


def test_clients_of_a_chunk_that_is_lost_twice_run_alone_and_a_client_that_is_lost_again_is_left_out():
    batch = JobBatch([TrainJob(0, 0, (30, 31, 32))], (), 1, merge_means)
    for attempt in (0, 1):
        assert batch.job(batch.tasks[0]).attempt == attempt
        batch.lose(batch.tasks.popleft())
    first, *others = batch.tasks
    assert [(task.job.clients, batch.job(task).attempt) for task in batch.tasks] == [((c,), 2) for c in (30, 31, 32)]
    for task in reversed(others):
        (client,) = task.job.clients
        partial = PartialAggregate(
            index=0,
            total=torch.tensor([client]).double(),
            weight=1.0,
            members=(client,),
            metrics={"attempt": (2.0, 1.0)},
        )
        batch.take(task, [bytearray(part) for part in encode_message(("done", partial))])
    assert not batch.done
    batch.lose(first)
    reason = "its worker process was lost 3 times, the last time with this client alone"
    assert batch.done[0].failures == (ClientFailure(30, "lost_worker", reason),)
    assert (batch.done[0].total.item(), batch.done[0].members) == (31 + 32, (31, 32))
    assert batch.done[0].metrics["attempt"] == (4.0, 2.0)


def test_merged_partial_aggregates_are_bit_identical_to_those_of_one_worker():
    fed = federation(clients=5, norm="batch")
    state = fed.initial_state()
    whole = fed.worker(TrainJob(0, 3, (0, 1, 2, 3, 4)), state)
    parts = fed.worker.merge([fed.worker(TrainJob(0, 3, (client,)), state) for client in range(5)])
    assert torch.equal(whole.total, parts.total)
    assert (whole.weight, whole.members, whole.metrics, whole.up_bytes) == (
        parts.weight,
        parts.members,
        parts.metrics,
        parts.up_bytes,
    )


def test_unpickled_worker_gives_the_same_results():
    fed = federation(norm="batch")
    with TemporaryFile() as file:
        copy = deserialize_worker(serialize_worker(fed.worker, file))
    state = fed.initial_state()
    assert torch.equal(fed.worker(TrainJob(0, 0, (1,)), state).total, copy(TrainJob(0, 0, (1,)), state).total)


@pytest.mark.parametrize(
    ("key", "value"), [("workers", 0), ("workers", "all"), ("threads", 0), ("per_gpu", 0), ("wall_timeout_s", 0.0)]
)
@pytest.mark.parametrize("executor", [Processes, Auto])
def test_errors_name_their_argument(executor, key, value):
    with pytest.raises(ConfigError) as error:
        executor(**{key: value})
    assert error.value.key == key


@pytest.mark.parametrize(
    ("workers", "per_gpu", "visible", "names"),
    [
        ("auto", 1, None, ["0", "1"]),
        ("auto", 2, None, ["0", "1", "0", "1"]),
        ("auto", 1, "3, GPU-8f2a", ["3", "GPU-8f2a"]),
        ("auto", 1, "5,1,7", ["5", "1"]),  # the driver counts two: it stops at a GPU that does not exist
        (3, 1, "4,6", ["4", "6", "4"]),
    ],
)
def test_each_process_sees_one_of_the_visible_gpus(monkeypatch, workers, per_gpu, visible, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    executor = Processes(workers, per_gpu=per_gpu)
    assert executor.gpus(torch.device("cuda", 0)) == names
    assert executor.gpus(torch.device("cpu")) == [None] * (available_cores() if workers == "auto" else workers)
    assert executor.gpus(torch.device("mps")) == [None] * (per_gpu if workers == "auto" else workers)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_processes_on_a_gpu_are_bit_identical_to_inline():
    fed = federation(recipe=TrainerConfig({"accelerator": "cuda"}))
    fed = fed.with_worker(fed.worker.on_device(torch.device("cuda", 0)))
    expected = [record.sha256 for record in fed.run()]
    assert [record.sha256 for record in replace(fed, executor=Processes(per_gpu=2)).run()] == expected


def many(algorithm, clients=70, rounds=2):
    """Seventy quadratic clients, in chunks of two; one client sends numbers that are not finite."""
    rows = [(1.0 + client % 7, float(client) if client != 20 else float("inf")) for client in range(clients)]
    replica = ModuleReplica(Quadratic(1.0, momentum=0.9))
    worker = ClientWorker(
        algorithm,
        replica,
        TrainerConfig({"accelerator": "cpu"}, steps=2, keep_optimizer=True),
        holdings(pairs(*rows), range(clients)),
    )
    schedule = Schedule(rounds=rounds, client_fraction=1.0)
    return Federation.assemble(
        initial=replica.read(), worker=worker, sampler=Uniform(clients), schedule=schedule, monitor=Monitor(None)
    )


@pytest.mark.slow
def test_results_are_bit_identical_to_inline_for_every_cohort_and_when_auto_moves_a_run_to_processes(
    caplog, monkeypatch
):
    few = federation(clients=10, cohort=3, norm="batch")
    feds = [many(FedAvg()), few, replace(few, sampler=PowerOfChoice(3, candidates=7))]
    feds += [with_own(FedRep(inner=Moon(), head_epochs=1), rounds=2), with_own(Finetune(), rounds=1)]
    feds += [federation_of(worker_of(Regression(change))) for change in PARAMETRIZATIONS.values()]
    expected = [[comparable(record) for record in fed.run()] for fed in feds]
    assert [failure.client for failure in expected[0][0][1]] == [20]
    with Processes(2).open(Several(tuple(fed.worker for fed in feds)), 1) as execute:
        for which, fed in enumerate(feds):
            fed = replace(fed, executor=SharedProcesses(execute=execute, which=which))
            assert [comparable(record) for record in fed.run()] == expected[which]
        monkeypatch.setattr("fedlit.executors.pool.joining.MIN_JOBS", 4)  # joins the 35 jobs of the first
        joined = replace(feds[0], executor=SharedProcesses(execute=execute, which=0))
        assert [comparable(record) for record in joined.run()] == expected[0]
        monkeypatch.setattr(
            Auto, "_make_processes", lambda self: SharedProcesses(execute=execute, which=1)
        )  # others take long to start
        monkeypatch.setattr("fedlit.executors.processes.available_cores", lambda: 2)
        with caplog.at_level(logging.INFO, "fedlit"):
            moved = [comparable(record) for record in replace(few, executor=Auto(start_s=0.0)).run()]
    assert "executor=auto takes 2 worker processes from round 2 on" in caplog.text
    assert moved == expected[1]


def unpickle(parent, large):
    if os.getpid() != parent:
        raise ImportError("not here")
    return Hidden(large)


@dataclass(frozen=True)
class Hidden(Plain):
    """A worker that can be pickled, but not unpickled in another process."""

    def __reduce__(self):
        return unpickle, (os.getpid(), self.large)


@pytest.mark.slow
def test_worker_that_cannot_be_unpickled_runs_inline_with_a_warning(caplog):
    state = plain_state(2.0)
    with Processes(1).open(Hidden(torch.arange(3)), 1) as execute:
        (partial,) = execute([TrainJob(0, 0, (3, 4))], state)
    assert partial.total.item() == 2.0 * (3 + 4)
    assert partial.metrics["pid"] == (float(os.getpid()), 1.0)
    assert "runs inline: ImportError: not here" in caplog.text


class Stuck:
    """An object that refuses to be pickled, by an exception of the user's choice."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyError("no"), OSError("no"), RecursionError("no")])
def test_auto_runs_inline_with_a_warning_whatever_pickling_raises(caplog, monkeypatch, error):
    monkeypatch.setattr("fedlit.executors.processes.available_cores", lambda: 2)
    module = Quadratic(1.0)
    module.helper = Stuck(error)
    fed = federation_of(worker_of(module))
    expected = [comparable(record) for record in fed.run()]
    given = [comparable(record) for record in replace(fed, executor=Auto(workers=2, start_s=0.0)).run()]
    assert given == expected
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("this federation cannot be sent to a worker process, so it runs inline: ")
    assert str(error) in line
