"""The loop over rounds: its results, what they depend on, and how a run resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, holdings, images, pairs

from fedlit.algorithms import FedAvg
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError, ConfigErrors, LostRounds
from fedlit.core.messages import EvaluateJob, ServerState, Shared
from fedlit.data import Data, Iid, Population
from fedlit.data.loading import Loading
from fedlit.data.samples import ClientTestSet
from fedlit.executors import Inline
from fedlit.models import Classifier
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.evaluation import Evaluations
from fedlit.server.monitor import Monitor
from fedlit.server.rounds import select
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation
from fedlit.simulation.faults import FailurePolicy


def quadratics(rows, algorithm=None, rounds=3, steps=2, module=None, **schedule):
    """Make a federation with one client for each row (a, b); all are in every round."""
    replica = ModuleReplica(module or Quadratic(1.0))
    schedule = Schedule(rounds=rounds, client_fraction=1.0, **schedule)
    config = TrainerConfig(
        {"accelerator": "cpu"},
        steps=steps,
        lr_factor=schedule.lr_factor,
        keep_optimizer=schedule.client_state == "keep",
    )
    worker = ClientWorker(algorithm or FedAvg(), replica, config, holdings(pairs(*rows), range(len(rows))))
    return Federation.assemble(
        initial=replica.read(), worker=worker, sampler=Uniform(len(rows)), schedule=schedule, monitor=Monitor(None)
    )


def no_jobs(jobs, state):
    """Execute no job: an error if there is one."""
    assert not list(jobs)
    return iter(())


def test_three_rounds_of_fedavg_equal_the_formula():
    rows = [(1.0, 2.0), (3.0, -1.0), (0.5, 4.0)]
    x = 1.0
    for record in quadratics(rows).run():
        ends = []
        for a, b in rows:
            y = x
            for _ in range(2):
                y -= 0.1 * a * (y - b)
            ends.append(y)
        x = sum(ends) / 3
        assert record.model.parameters["w"].item() == pytest.approx(x, abs=1e-6)


def test_a_record_has_its_keys_and_the_bytes_of_the_messages():
    records = list(federation().run())
    assert [record.number for record in records] == [1, 2, 3]
    keys = {
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "test/loss",
        "test/accuracy",
        "comm/up_bytes",
        "comm/down_bytes",
        "time/round_s",
        "clients/trained",
        "clients/failed",
    }
    for record in records:
        assert keys <= set(record.metrics)
        assert {"round", "cohort", "state_sha256"} <= set(record.to_dict())
        assert record.cohort == tuple(sorted(set(record.cohort)))
    numbers = sum(t.numel() for t in records[0].model.parameters.values())
    assert records[0].metrics["comm/up_bytes"] == 2 * (8 + 4 * numbers)
    assert records[0].metrics["comm/down_bytes"] > 2 * 4 * numbers


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_runs_with_the_same_seed_are_bit_identical_and_with_another_seed_are_not(norm):
    first, again, other = (
        [record.sha256 for record in federation(seed, norm=norm, rounds=2).run()] for seed in (1, 1, 2)
    )
    assert first == again
    assert not set(first) & set(other)


def test_a_run_neither_uses_nor_changes_the_global_random_state():
    digests = []
    for seed in (0, 99):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state()
        digests.append([record.sha256 for record in federation(rounds=2).run()])
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1]


def test_fedprox_is_bit_identical_to_fedavg_with_mu_0_and_not_with_mu_1():
    plain, zero, one = (
        [record.sha256 for record in federation(algorithm=a, rounds=2).run()]
        for a in (FedAvg(), FedAvg(proximal=0.0), FedAvg(proximal=1.0))
    )
    assert plain == zero
    assert plain[0] != one[0]


def test_algorithms_with_one_seed_have_the_same_cohorts_and_initial_weights():
    one, other = federation(3, algorithm=FedAvg()), federation(3, algorithm=FedAvg(proximal=1.0))
    assert [r.cohort for r in one.run()] == [r.cohort for r in other.run()]
    assert all(torch.equal(tensor, other.initial.parameters[name]) for name, tensor in one.initial.parameters.items())


def test_the_counter_of_batch_norm_stays_an_integer_and_counts():
    last = list(federation(norm="batch", clients=2, cohort=2, samples=40).run())[-1]
    counters = [t for name, t in last.model.buffers.items() if "num_batches" in name]
    assert [(int(t), t.dtype) for t in counters] == [(6, torch.int64)] * 2


def test_rounds_are_evaluated_as_often_as_the_schedule_says():
    records = list(federation(rounds=5, eval_every=2).run())
    assert ["val/loss" in record.metrics for record in records] == [False, True, False, True, True]


def test_the_target_ends_the_run():
    assert len(list(federation(rounds=50, stop_at=0.0).run())) == 1
    assert len(list(federation(rounds=4, stop_at=1.1).run())) == 4


def test_a_round_without_a_valid_update_is_lost_and_the_model_stays_the_same():
    fed = quadratics([(1.0, float("nan")), (1.0, float("inf"))], rounds=2)
    for record in fed.run():
        assert record.lost
        assert len(record.failures) == 2
        assert record.model.parameters["w"].item() == 1.0
        assert record.metrics["clients/failed"] == 2


@pytest.mark.parametrize("rounds", [2, 3])
def test_too_many_lost_rounds_in_a_row_end_the_run_also_after_the_last_round(rounds):
    fed = quadratics([(1.0, float("nan"))], rounds=rounds)
    fed = fed.with_worker(replace(fed.worker, faults=FailurePolicy(max_lost_rounds=2)))
    records = iter(fed.run())
    assert [next(records).number, next(records).number] == [1, 2]
    with pytest.raises(LostRounds):
        next(records)


def test_an_invalid_update_is_left_out_of_the_mean():
    record = next(iter(quadratics([(1.0, 2.0), (1.0, float("nan"))], steps=1).run()))
    assert not record.lost
    assert record.model.parameters["w"].item() == pytest.approx(1.1)


def test_the_cohort_is_sorted_by_examples_then_id():
    fed = federation(clients=4, cohort=4)
    owner = np.repeat([0, 1, 2, 3], [20, 40, 40, 20])
    data = replace(fed.worker.data, population=Population.of(owner, 4))
    fed = fed.with_worker(replace(fed.worker, data=data))
    assert select(fed, fed.initial_state(), no_jobs).cohort == (1, 2, 0, 3)


def test_a_cohort_of_more_than_64_clients_has_the_same_mean():
    rows = [(1.0, float(b)) for b in range(81)]
    record = next(iter(quadratics(rows, rounds=1, steps=1).run()))
    assert record.model.parameters["w"].item() == pytest.approx(1.0 + 0.1 * (np.mean(range(81)) - 1.0), abs=1e-5)
    assert record.metrics["clients/trained"] == 81


def test_the_executor_sets_the_number_of_threads_and_restores_it():
    threads = []

    def worker(job, state):
        threads.append(torch.get_num_threads())

    with Inline(threads=2).open(worker, 1) as execute:
        list(execute([1], None))
    assert threads == [2]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_a_client_keeps_its_optimizer_state_only_if_the_schedule_says_so(state):
    rows, x, v = [(1.0, 2.0), (3.0, -1.0)], 1.0, [0.0, 0.0]
    fed = quadratics(rows, module=Quadratic(1.0, momentum=0.9), client_state=state)
    for record in fed.run():
        ends = []
        for client, (a, b) in enumerate(rows):
            y, u = x, v[client] if state == "keep" else 0.0
            for _ in range(2):
                u = 0.9 * u + a * (y - b)
                y -= 0.1 * u
            v[client] = u
            ends.append(y)
        x = sum(ends) / 2
        assert record.model.parameters["w"].item() == pytest.approx(x, abs=1e-5)


def test_a_client_whose_update_is_left_out_keeps_its_old_state():
    class InvalidOnce(FedAvg):
        def client(self, local, shared, client_state):
            update = super().client(local, shared, client_state)
            count = client_state.get("mine", {"rounds": torch.tensor(0.0)})["rounds"] + 1
            is_invalid = local.examples and count == 2 and local.client == 1
            groups = {"parameters": {"w": torch.tensor([float("nan")])}} if is_invalid else update.groups
            if local.examples:
                counts.append((local.client, int(count)))
            return replace(update, groups=groups, client_state={"mine": {"rounds": count}})

    counts = []
    list(quadratics([(1.0, 2.0), (1.0, 3.0)], InvalidOnce(), rounds=4).run())
    assert counts == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 2), (0, 4), (1, 2)]


def test_clients_are_evaluated_on_their_own_test_sets():
    fed = federation(clients=4, cohort=2)
    own = ClientTestSet(images(40, seed=5), Population.of(np.arange(40) % 4, 4))
    worker = replace(fed.worker, data=replace(fed.worker.data, client_tests=own))
    fed = replace(fed.with_worker(worker), evaluations=Evaluations("all"))
    record = next(iter(fed.run()))
    state = ServerState(1, Shared(record.model))
    values = [worker(EvaluateJob(0, "test", client), state).metrics["test/accuracy"] for client in range(4)]
    assert record.metrics["own/accuracy"] == pytest.approx(np.mean(values))
    assert record.metrics["own/accuracy_std"] == pytest.approx(np.std(values))
    assert record.metrics["own/accuracy_lowest_tenth"] == pytest.approx(min(values))
    assert record.metrics["own/accuracy_highest_tenth"] == pytest.approx(max(values))
    assert "own/loss" in record.metrics
    one = next(iter(replace(fed, evaluations=Evaluations(1)).run()))
    assert one.metrics["own/accuracy"] in [pytest.approx(value) for value in values]
    assert one.metrics["own/accuracy_std"] == 0


def test_federation_of_refuses_parts_that_do_not_go_together():
    parts = {
        "model": lambda: Classifier("fedlit.models.Logistic", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}),
        "data": Data("mine", images(60), None, (1, 8, 8), ("a", "b", "c")),
        "partition": Iid(4),
        "algorithm": FedAvg(),
    }
    schedule = Schedule(clients_per_round=9, stop_at=0.9, quorum=10)
    with pytest.raises(ConfigErrors) as error:
        Federation.of(**parts, schedule=schedule, loading=Loading(val_fraction=0.0))
    keys = {error.key for error in error.value.errors}
    assert keys == {"schedule.clients_per_round", "schedule.stop_at", "schedule.quorum"}


def test_an_empty_client_state_removes_the_old_one():
    class EverySecondRound(FedAvg):
        def client(self, local, shared, client_state):
            has_state.extend([bool(client_state)] * (local.examples > 0))
            new_state = {} if client_state else {"m": {"t": torch.ones(1)}}
            return replace(super().client(local, shared, client_state), client_state=new_state)

    has_state = []
    list(quadratics([(1.0, 2.0)], EverySecondRound(), rounds=4).run())
    assert has_state == [False, True, False, True]


def with_checkpoints(folder, **options):
    return replace(federation(**options), checkpointer=DiskCheckpointer(folder))


def test_a_resumed_run_is_bit_identical_and_keeps_only_its_last_round(tmp_path):
    expected, folder = [record.sha256 for record in federation().run()], tmp_path / "new" / "run"
    assert next(with_checkpoints(str(folder)).run()).sha256 == expected[0]
    assert [record.sha256 for record in with_checkpoints(folder).run()] == expected[1:]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["round-000003"]
    assert [record.number for record in with_checkpoints(folder, rounds=4).run()] == [4]


def test_checkpoints_of_another_experiment_are_refused_with_each_difference(tmp_path):
    list(with_checkpoints(tmp_path, rounds=1).run())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = with_checkpoints(tmp_path, seed=1, clients=5, algorithm=FedAvg(proximal=0.5), norm="batch", local_steps=2)
    with pytest.raises(ConfigErrors) as error:
        next(other.run())
    errors = {error.key: (error.value, error.problem) for error in error.value.errors}
    assert errors.keys() == {"seed", "partition", "layout", "algorithm.proximal", "schedule.local_steps"}
    assert errors["seed"] == (1, f"was 0 in the checkpoints of {tmp_path}")
    assert errors["partition"][0].startswith("5 clients, sha256 ")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_in_use_is_refused_until_its_run_has_ended(tmp_path):
    first = with_checkpoints(tmp_path).run()
    next(first)
    with pytest.raises(ConfigError, match="is in use by another process"):
        next(with_checkpoints(tmp_path).run())
    first.close()
    assert next(with_checkpoints(tmp_path).run()).number == 2


def test_a_run_that_ended_by_lost_rounds_counts_from_zero_when_it_resumes(tmp_path):
    fed = quadratics([(1.0, float("nan"))], rounds=9)
    for rounds in (3, 6):
        with pytest.raises(LostRounds, match="3 rounds in a row"):
            list(replace(fed, checkpointer=DiskCheckpointer(tmp_path)).run())
        assert len(DiskCheckpointer(tmp_path).load().records) == rounds


def test_lost_rounds_before_an_interruption_count_when_the_run_resumes(tmp_path):
    fed = replace(quadratics([(1.0, float("nan"))], rounds=9), checkpointer=DiskCheckpointer(tmp_path))
    interrupted = fed.run()
    assert [next(interrupted).number, next(interrupted).number] == [1, 2]
    interrupted.close()
    with pytest.raises(LostRounds, match="3 rounds in a row"):
        list(replace(fed, checkpointer=DiskCheckpointer(tmp_path)).run())
    assert len(DiskCheckpointer(tmp_path).load().records) == 3


def test_a_run_that_has_reached_its_target_trains_no_further_round_when_it_resumes(tmp_path):
    assert len(list(with_checkpoints(tmp_path, rounds=50, stop_at=0.0).run())) == 1
    assert list(with_checkpoints(tmp_path, rounds=50, stop_at=0.0).run()) == []
