"""The loop: what a round is, and that nothing but its seed decides it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Quadratic, federation, holdings, images, pairs

from fedlit.algorithms import FedAvg
from fedlit.client.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError, ConfigErrors, LostRounds
from fedlit.core.messages import EvaluateJob, ServerState, Shared
from fedlit.data import Data, Iid, Population
from fedlit.data.samples import ClientTestSet, Loading
from fedlit.executors import Inline
from fedlit.models import Classifier
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.evaluation import Evaluations
from fedlit.server.monitor import Monitor
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation
from fedlit.simulation.faults import FailurePolicy


def quadratics(rows, algorithm=None, rounds=3, steps=2, module=None, **schedule):
    """A client for each row (a, b), all in every round."""
    bench = ModuleReplica(module or Quadratic(1.0))
    schedule = Schedule(rounds=rounds, client_fraction=1.0, **schedule)
    recipe = TrainerConfig(
        {"accelerator": "cpu"},
        steps=steps,
        lr_factor=schedule.lr_factor,
        keep_optimizer=schedule.client_state == "keep",
    )
    worker = ClientWorker(algorithm or FedAvg(), bench, recipe, holdings(pairs(*rows), range(len(rows))))
    return Federation.assemble(
        initial=bench.read(), worker=worker, sampler=Uniform(len(rows)), schedule=schedule, monitor=Monitor(None)
    )


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


def test_a_record_has_its_keys_and_measures():
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
        assert {"round", "cohort", "state_sha256"} <= set(record.record())
        assert record.cohort == tuple(sorted(set(record.cohort)))
    numbers = sum(t.numel() for t in records[0].model.parameters.values())
    assert records[0].metrics["comm/up_bytes"] == 2 * (8 + 4 * numbers)
    assert records[0].metrics["comm/down_bytes"] > 2 * 4 * numbers


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(norm):
    first, again, other = (
        [record.sha256 for record in federation(seed, norm=norm, rounds=2).run()] for seed in (1, 1, 2)
    )
    assert first == again
    assert not set(first) & set(other)


def test_global_random_state_does_not_matter_and_is_left_alone():
    digests = []
    for seed in (0, 99):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state()
        digests.append([record.sha256 for record in federation(rounds=2).run()])
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1]


def test_fedprox_with_mu_0_is_fedavg_bit_for_bit_and_is_not_with_mu_1():
    plain, zero, one = (
        [record.sha256 for record in federation(algorithm=a, rounds=2).run()]
        for a in (FedAvg(), FedAvg(proximal=0.0), FedAvg(proximal=1.0))
    )
    assert plain == zero
    assert plain[0] != one[0]


def test_algorithms_with_one_seed_meet_the_same_cohorts_and_initial_weights():
    one, other = federation(3, algorithm=FedAvg()), federation(3, algorithm=FedAvg(proximal=1.0))
    assert [r.cohort for r in one.run()] == [r.cohort for r in other.run()]
    assert all(torch.equal(tensor, other.initial.parameters[name]) for name, tensor in one.initial.parameters.items())


def test_batch_norms_counter_stays_an_integer_and_counts():
    last = list(federation(norm="batch", clients=2, cohort=2, samples=40).run())[-1]
    counters = [t for name, t in last.model.buffers.items() if "num_batches" in name]
    assert [(int(t), t.dtype) for t in counters] == [(6, torch.int64)] * 2


def test_evaluation_happens_when_it_is_due():
    records = list(federation(rounds=5, eval_every=2).run())
    assert ["val/loss" in record.metrics for record in records] == [False, True, False, True, True]


def test_the_target_ends_the_run():
    assert len(list(federation(rounds=50, stop_at=0.0).run())) == 1
    assert len(list(federation(rounds=4, stop_at=1.1).run())) == 4


def test_a_round_without_a_good_update_is_lost_and_the_model_stays():
    fed = quadratics([(1.0, float("nan")), (1.0, float("inf"))], rounds=2)
    for record in fed.run():
        assert record.lost
        assert len(record.failures) == 2
        assert record.model.parameters["w"].item() == 1.0
        assert record.metrics["clients/failed"] == 2


@pytest.mark.parametrize("rounds", [2, 3])
def test_so_many_lost_rounds_in_a_row_end_the_run_also_with_its_last(rounds):
    fed = quadratics([(1.0, float("nan"))], rounds=rounds)
    fed = fed.with_worker(replace(fed.worker, faults=FailurePolicy(max_lost_rounds=2)))
    seen = iter(fed.run())
    assert [next(seen).number, next(seen).number] == [1, 2]
    with pytest.raises(LostRounds):
        next(seen)


def test_one_bad_client_leaves_the_others_mean():
    record = next(iter(quadratics([(1.0, 2.0), (1.0, float("nan"))], steps=1).run()))
    assert not record.lost
    assert record.model.parameters["w"].item() == pytest.approx(1.1)


def test_the_cohort_is_sorted_by_examples_then_id():
    fed = federation(clients=4, cohort=4)
    owner = np.repeat([0, 1, 2, 3], [20, 40, 40, 20])
    held = replace(fed.worker.data, population=Population.of(owner, 4))
    fed = fed.with_worker(replace(fed.worker, data=held))
    assert fed.call(0, fed.algorithm.init(fed.initial)).cohort == (1, 2, 0, 3)


def test_a_cohort_of_more_than_64_is_added_up_all_the_same():
    rows = [(1.0, float(b)) for b in range(81)]
    record = next(iter(quadratics(rows, rounds=1, steps=1).run()))
    assert record.model.parameters["w"].item() == pytest.approx(1.0 + 0.1 * (np.mean(range(81)) - 1.0), abs=1e-5)
    assert record.metrics["clients/trained"] == 81


def test_the_executor_sets_its_threads_and_puts_them_back():
    seen = []

    def worker(job, state):
        seen.append(torch.get_num_threads())

    with Inline(threads=2).open(worker, 1) as execute:
        list(execute([1], None))
    assert seen == [2]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_a_clients_optimizer_goes_on_where_it_was_if_it_is_kept(state):
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


def test_a_client_whose_update_is_left_out_remembers_what_it_did_before():
    class Spoils(FedAvg):
        def client(self, local, shared, memory):
            update = super().client(local, shared, memory)
            count = memory.get("mine", {"rounds": torch.tensor(0.0)})["rounds"] + 1
            send = (
                {"parameters": {"w": torch.tensor([float("nan")])}}
                if count == 2 and local.client == 1
                else update.groups
            )
            seen.extend([(local.client, int(count))] * (local.examples > 0))
            return replace(update, groups=send, client_state={"mine": {"rounds": count}})

    seen = []
    list(quadratics([(1.0, 2.0), (1.0, 3.0)], Spoils(), rounds=4).run())
    assert seen == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 2), (0, 4), (1, 2)]


def test_clients_are_evaluated_on_their_own_test_samples():
    fed = federation(clients=4, cohort=2)
    own = ClientTestSet(images(40, seed=5), Population.of(np.arange(40) % 4, 4))
    worker = replace(fed.worker, data=replace(fed.worker.data, client_tests=own))
    everyone = replace(fed.with_worker(worker), evaluations=Evaluations("all"))
    record = next(iter(everyone.run()))
    state = ServerState(1, Shared(record.model))
    values = [worker(EvaluateJob(0, "test", client), state).metrics["test/accuracy"] for client in range(4)]
    assert record.metrics["own/accuracy"] == pytest.approx(np.mean(values))
    assert record.metrics["own/accuracy_std"] == pytest.approx(np.std(values))
    assert record.metrics["own/accuracy_lowest_tenth"] == pytest.approx(min(values))
    assert record.metrics["own/accuracy_highest_tenth"] == pytest.approx(max(values))
    assert "own/loss" in record.metrics
    one = next(iter(replace(everyone, evaluations=Evaluations(1)).run()))
    assert one.metrics["own/accuracy"] in [pytest.approx(value) for value in values]
    assert one.metrics["own/accuracy_std"] == 0


def test_parts_that_do_not_go_together_are_refused_from_python_too():
    parts = {
        "model": lambda: Classifier("fedlit.models.Logistic", [1, 8, 8], 3, {"name": "sgd", "lr": 0.1}),
        "data": Data("mine", images(60), None, (1, 8, 8), ("a", "b", "c")),
        "partition": Iid(4),
        "algorithm": FedAvg(),
    }
    schedule = Schedule(clients_per_round=9, stop_at=0.9, quorum=10)
    with pytest.raises(ConfigErrors) as error:
        Federation.of(**parts, schedule=schedule, loading=Loading(val_fraction=0.0))
    keys = {mistake.key for mistake in error.value.errors}
    assert keys == {"schedule.clients_per_round", "schedule.stop_at", "schedule.quorum"}


def test_an_algorithm_can_forget():
    class Once(FedAvg):
        def client(self, local, shared, memory):
            seen.extend([bool(memory)] * (local.examples > 0))
            return replace(
                super().client(local, shared, memory), client_state={} if memory else {"m": {"t": torch.ones(1)}}
            )

    seen = []
    list(quadratics([(1.0, 2.0)], Once(), rounds=4).run())
    assert seen == [False, True, False, True]


def committed(folder, **options):
    return replace(federation(**options), checkpointer=DiskCheckpointer(folder))


def test_what_was_run_from_python_goes_on_with_the_same_bits_and_ends(tmp_path):
    wanted = [record.sha256 for record in federation().run()]
    assert next(committed(str(tmp_path / "new" / "run")).run()).sha256 == wanted[0]
    assert [record.sha256 for record in committed(tmp_path / "new" / "run").run()] == wanted[1:]
    assert [path.name for path in (tmp_path / "new" / "run" / "checkpoints").iterdir()] == ["round-000003"]
    assert [record.number for record in committed(tmp_path / "new" / "run", rounds=4).run()] == [4]


def test_another_experiment_is_refused_field_by_field(tmp_path):
    list(committed(tmp_path, rounds=1).run())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = committed(tmp_path, seed=1, clients=5, algorithm=FedAvg(proximal=0.5), norm="batch", local_steps=2)
    with pytest.raises(ConfigErrors) as error:
        next(other.run())
    told = {mistake.key: (mistake.value, mistake.problem) for mistake in error.value.errors}
    assert told.keys() == {"seed", "partition", "layout", "algorithm.proximal", "schedule.local_steps"}
    assert told["seed"] == (1, f"was 0 in the rounds that {tmp_path} has")
    assert told["partition"][0].startswith("5 clients, sha256 ")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_at_one_folder_the_second_is_refused_until_the_first_has_ended(tmp_path):
    first = committed(tmp_path).run()
    next(first)
    with pytest.raises(ConfigError, match="is another process's at the moment"):
        next(committed(tmp_path).run())
    first.close()
    assert next(committed(tmp_path).run()).number == 2


def test_a_run_that_lost_rounds_ended_bears_as_many_again(tmp_path):
    fed = quadratics([(1.0, float("nan"))], rounds=9)
    for ends in (3, 6):
        with pytest.raises(LostRounds, match="3 rounds in a row"):
            list(replace(fed, checkpointer=DiskCheckpointer(tmp_path)).run())
        assert len(DiskCheckpointer(tmp_path).load().records) == ends
