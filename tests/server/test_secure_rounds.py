"""Secure sums in the loop: exact sums, losses in each exchange, resume, and what the loop holds."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from conftest import Quadratic, holdings, pairs
from secagg_runs import keep_values, leaked_values, leave_vault_open

from fedlit.aggregation import Channel
from fedlit.aggregation.secure import IdealSum, SecAgg, secagg
from fedlit.aggregation.secure.protocol.server import EXCHANGES
from fedlit.aggregation.secure.protocol.wire import HEADER
from fedlit.algorithms import FedAvg, Scaffold
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.messages import ExchangeJob, TrainJob
from fedlit.core.tensors import Layout
from fedlit.data.samples import ClientTestSet
from fedlit.executors import Inline, Processes
from fedlit.executors.executor import Executor
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.sampling import Uniform
from fedlit.server.schedule import Schedule
from fedlit.server.setup import Federation
from fedlit.simulation.client_faults import Corrupt, Drop
from fedlit.simulation.faults import FailurePolicy, FaultPlan

ROWS = [(1.0, float(client % 4) - 1) for client in range(10)]
CLIENTS = 10


def federation(stage, rounds=1, algorithm=None, faults=None, cohort=7, others=(), **parts):
    """Ten clients with one or two samples each; seven in a round."""
    rows = [ROWS[client] for client in range(CLIENTS) for _ in range(1 + client % 2)]
    owner = [client for client in range(CLIENTS) for _ in range(1 + client % 2)]
    schedule = Schedule(rounds=rounds, clients_per_round=cohort, local_epochs=1)
    replica = ModuleReplica(Quadratic(start=0.25, lr=0.125))
    config = schedule.configure(TrainerConfig({"accelerator": "cpu"}))
    channel = Channel.of([*others, replace(stage, max_weight=2)] if stage else others)
    worker = ClientWorker(
        algorithm or FedAvg(),
        replica,
        config,
        holdings(pairs(*rows), owner, CLIENTS, 1),
        faults or FailurePolicy(),
        channel,
    )
    return Federation.assemble(
        initial=replica.read(), worker=worker, sampler=Uniform(cohort), schedule=schedule, **parts
    )


def records(*arguments, **parts):
    return list(federation(*arguments, **parts).run())


def parameter(record):
    return float(record.model.parameters["w"])


def drop(exchange, clients):
    return FaultPlan(Drop(exchange=exchange), 1.0, clients)


def dropped(*plans, **options):
    return FailurePolicy(plans=plans, **options)


def test_the_sum_is_the_plain_one_to_the_step_of_the_grid():
    plain, secure = (parameter(records(stage)[0]) for stage in (None, SecAgg()))
    assert secure == pytest.approx(plain, abs=SecAgg(max_weight=2).quantizer.step)
    assert secure != plain


@pytest.mark.parametrize("other", [SecAgg(neighbours=4), SecAgg(group_size=3), IdealSum(), IdealSum(group_size=3)])
def test_all_kinds_have_the_same_bits(other):
    assert records(other)[0].sha256 == records(SecAgg())[0].sha256


def test_scaffold_sends_its_control_variates_in_the_masked_vector():
    secure, plain = (records(stage, rounds=2, algorithm=Scaffold()) for stage in (SecAgg(range=4, bits=24), None))
    assert parameter(secure[1]) == pytest.approx(parameter(plain[1]), abs=1e-5)
    assert secure[1].sha256 != plain[1].sha256


def test_the_sum_equals_that_of_the_clients_integers_bit_for_bit(monkeypatch):
    """The integers of each client are recorded on the way into the mask."""
    integers, opened = [], []
    conceal, open_sum = SecAgg.conceal, SecAgg.open_sum
    monkeypatch.setattr(
        SecAgg, "conceal", lambda self, x, ticket: (integers.append(x.copy()), conceal(self, x, ticket))[1]
    )
    monkeypatch.setattr(
        SecAgg, "open_sum", lambda self, x, layout: (opened.append(x.clone()), open_sum(self, x, layout))[1]
    )
    records(SecAgg())
    assert len(integers) == 7
    assert opened[0].tolist() == np.sum([x.view(np.int32).astype(np.int64) for x in integers], 0).tolist()


@pytest.mark.parametrize("exchange", [1, 2, 3, 4])
def test_a_loss_in_each_exchange_gives_the_sum_of_the_survivors(exchange):
    (full,) = records(SecAgg())
    gone = full.cohort[:2]
    (record,) = records(SecAgg(), faults=dropped(drop(exchange, gone)))
    assert record.lost is None
    if exchange == 4:  # their updates had arrived
        assert (record.sha256, record.failures, record.metrics["secure/unmasking_silent"]) == (full.sha256, (), 2)
        return
    assert [(failure.client, failure.outcome) for failure in sorted(record.failures, key=lambda f: f.client)] == [
        (client, "planned") for client in sorted(gone)
    ]
    assert f"exchange {exchange}" in record.failures[0].reason
    plain = dropped(FaultPlan(Drop(), 1.0, gone))
    assert record.sha256 == records(IdealSum(), faults=plain)[0].sha256


def test_a_client_with_a_long_update_fails_and_only_a_plain_sum_records_its_norm():
    for stage, has_norm in ((None, True), (SecAgg(), False), (IdealSum(), False)):
        (record,) = records(stage, faults=FailurePolicy(max_norm=1e-3))
        assert len(record.failures) == 7
        for failure in record.failures:
            assert failure.reason.endswith("is above faults.max_norm=0.001")
            assert (failure.reason == "norm is above faults.max_norm=0.001") != has_norm


@pytest.mark.parametrize("exchange", [1, 2, 3, 4])
def test_one_loss_too_many_loses_the_round_and_says_why(exchange):
    (full,) = records(SecAgg())
    (record,) = records(SecAgg(), faults=dropped(drop(exchange, full.cohort[:3])))
    names = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "Unmasking")
    assert f"secure sum is lost: 4 of 7 clients answered {names[exchange - 1]}, and 5 are needed" in record.lost
    assert len(record.failures) == 7
    assert {failure.outcome for failure in record.failures} == (
        {"aborted"} if exchange == 4 else {"aborted", "planned"}
    )
    assert parameter(record) == 0.25


def test_a_lost_group_leaves_the_others_in_the_sum():
    (full,) = records(SecAgg(group_size=3))  # groups of 4 and 3 clients
    small = IdealSum(group_size=3).groups(sorted_cohort(full))[1]
    (record,) = records(SecAgg(group_size=3), faults=dropped(drop(3, small[:1])))
    assert record.lost is None
    assert record.metrics["clients/trained"] == 4
    assert record.metrics["secure/lost_groups"] == 1
    assert {failure.client for failure in record.failures} == set(small)


def sorted_cohort(record):
    """A cohort in the order of the jobs: by examples, then id."""
    return sorted(record.cohort, key=lambda client: (-(1 + client % 2), client))


@pytest.mark.slow
def test_random_losses_in_all_exchanges_give_the_sum_of_the_survivors_or_a_lost_round():
    """The ideal sum of the same survivors, round by round from the same model, is the same to the bit."""
    plans = [FaultPlan(Drop(exchange=exchange), 0.06) for exchange in (1, 2, 3, 4)]
    secure = records(SecAgg(), rounds=12, cohort=9, faults=dropped(*plans, max_lost_rounds=100))
    gone = [FaultPlan(Drop(), 1.0, [f.client for f in r.failures], [r.number]) for r in secure if r.failures]
    ideal = records(IdealSum(), rounds=12, cohort=9, faults=dropped(*gone, max_lost_rounds=100))
    assert [record.sha256 for record in secure] == [record.sha256 for record in ideal]
    assert 2 < sum(record.lost is not None for record in secure) < 10


@pytest.mark.parametrize("cohort", [1, 2])
def test_a_cohort_below_three_clients_is_a_lost_round(cohort):
    (record,) = records(SecAgg(), cohort=cohort)
    assert f"a group of {cohort} clients is too small" in record.lost


@pytest.mark.parametrize(("first", "reason"), [(0, "its neighbourhood has 4"), (3, "is now in group 0 of 4 clients")])
def test_clients_refuse_a_server_that_names_too_small_a_group(monkeypatch, first, reason):
    """It names a group of 4 of the 7 clients from an exchange on: with 3 survivors the sum would still be opened."""

    class LyingSession(secagg._Session):
        def requests(self):
            if EXCHANGES.index(self._server.exchange) >= first:
                self._header = HEADER.pack(0, 4)
            return super().requests()

    monkeypatch.setattr(secagg, "_Session", LyingSession)
    (record,) = records(SecAgg())
    refused = "ShareKeys" if first == 0 else "Unmasking"
    assert f"0 of 7 clients answered {refused}, and 5 are needed" in record.lost
    if first == 0:
        assert all(reason in failure.reason for failure in record.failures)
    assert parameter(record) == 0.25


def test_an_update_that_is_not_finite_is_refused_on_the_client():
    (full,) = records(SecAgg())
    (record,) = records(SecAgg(), faults=dropped(FaultPlan(Corrupt("nan"), 1.0, full.cohort[:1])))
    assert [failure.outcome for failure in record.failures] == ["not_finite"]
    assert record.lost is None


def test_the_record_has_bytes_and_seconds_of_each_exchange_and_no_metric_of_clients():
    (record,), (plain,) = records(SecAgg()), records(None)
    stage, metrics = SecAgg(), record.metrics
    for name in stage.exchanges:
        assert metrics[f"time/{name}_clients_s"] > 0
        assert metrics[f"time/{name}_server_s"] > 0
        assert metrics[f"secure/{name}_up_bytes"] > 0
        assert metrics[f"secure/{name}_down_bytes"] > 0
    up, down = stage.exchange_nbytes(7, Layout(()))
    assert metrics["comm/up_bytes"] == 7 * (up + 4 * 3)
    assert metrics["comm/down_bytes"] == plain.metrics["comm/down_bytes"] + 7 * down
    assert not [name for name in metrics if name.startswith(("train/", "drift/"))]
    assert [name for name in plain.metrics if name.startswith(("train/", "drift/"))]
    assert metrics["secure/clipped"] == 0


@pytest.mark.parametrize("stage", [None, IdealSum()])
def test_no_figure_of_a_single_client_is_in_the_record(stage):
    fed = federation(stage)
    data = fed.worker.data
    own = replace(data, client_tests=ClientTestSet(data.train, data.population))
    (record,) = fed.with_worker(replace(fed.worker, data=own)).run()
    assert [name for name in record.metrics if name.startswith("own/")]
    assert bool(record.clients) == (stage is None)


def test_ideal_counts_the_bytes_that_secagg_sends():
    secure, ideal = (records(stage)[0].metrics for stage in (SecAgg(neighbours=4), IdealSum(neighbours=4)))
    for name in ("comm/up_bytes", "comm/down_bytes"):
        assert secure[name] == ideal[name]


def test_clipped_coordinates_are_counted():
    (record,) = records(SecAgg(range=0.01))
    assert record.metrics["secure/clipped"] == 7


class Recorder(Executor):
    """Runs jobs in this process, and keeps everything that the loop gives or gets, as bytes.

    Args:
        stop_at: number of the exchange in round 2 in which the process is killed; None for none.
    """

    def __init__(self, stop_at=None):
        self.seen, self.stop_at, self.jobs = [], stop_at, []

    def open(self, worker, rounds):
        from contextlib import nullcontext

        return nullcontext(lambda jobs, state: self._run(worker, jobs, state))

    def _run(self, worker, jobs, state):
        for job in jobs:
            self.seen.append(pickle.dumps((job, replace(state, private={}))))
            result = worker(job, state=state)
            self.seen.append(pickle.dumps(result))
            self.jobs.append(job)
            exchange = getattr(job, "exchange", None)
            if state.round == 1 and exchange is not None and exchange.number == self.stop_at:
                raise KeyboardInterrupt
            yield result


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [1, 2, 3, 4])
def test_a_run_killed_within_an_exchange_repeats_the_round_with_new_keys_and_the_same_sum(exchange, tmp_path):
    whole = records(SecAgg(), rounds=3, checkpointer=DiskCheckpointer(tmp_path / "whole"))
    interrupted, resumed = Recorder(exchange), Recorder()
    with pytest.raises(KeyboardInterrupt):
        records(SecAgg(), rounds=3, executor=interrupted, checkpointer=DiskCheckpointer(tmp_path / "run"))
    again = records(SecAgg(), rounds=3, executor=resumed, checkpointer=DiskCheckpointer(tmp_path / "run"))
    assert [record.number for record in again] == [2, 3]
    assert [record.sha256 for record in again] == [record.sha256 for record in whole[1:]]
    first, second = (keys_of(executor, 1) for executor in (interrupted, resumed))
    assert first.keys() <= second.keys()
    assert all(first[client] != second[client] for client in first)


def keys_of(executor, round):
    """The public keys of each client in a round's first exchange."""
    found = {}
    for job, content in zip(executor.jobs, executor.seen[1::2], strict=False):
        if isinstance(job, ExchangeJob) and job.round == round and job.exchange.number == 1:
            found |= pickle.loads(content).replies
    return found


@pytest.mark.slow
def test_worker_processes_share_a_key_and_have_the_same_bits():
    faults = dropped(FaultPlan(Drop(exchange=2), 0.1), FaultPlan(Drop(exchange=3), 0.1))
    inline, processes = (
        records(SecAgg(), rounds=2, faults=faults, executor=executor) for executor in (Inline(), Processes(workers=2))
    )
    assert [record.sha256 for record in inline] == [record.sha256 for record in processes]
    assert [record.failures for record in inline] == [record.failures for record in processes]
    assert all(record.lost is None for record in processes)


@pytest.fixture
def kept(monkeypatch):
    """The values that only the worker sees."""

    def secrets_of(stage, ticket, secrets):
        return [value for value in (secrets.sealing_key, secrets.mask_key, secrets.seed) if value]

    return keep_values(monkeypatch, SecAgg, SecAgg, "_dump", secrets_of)


def test_nothing_that_the_loop_holds_has_an_update_or_a_secret_key(kept):
    executor = Recorder()
    (record,) = records(SecAgg(), executor=executor)
    assert record.lost is None
    assert len(kept["integers"]) == 7
    assert len(set(kept["secrets"])) == 21
    assert leaked_values(executor.seen, kept) == set()


def test_the_search_finds_a_secret_that_is_not_sealed(kept, monkeypatch):
    leave_vault_open(monkeypatch)
    executor = Recorder()
    records(SecAgg(), executor=executor)
    assert leaked_values(executor.seen, kept) == {"secrets"}


def test_the_search_finds_integers_without_a_mask(kept, monkeypatch):
    from fedlit.aggregation.secure.protocol import client

    monkeypatch.setattr(client, "add_masks", lambda vector, add, subtract: None)
    executor = Recorder()
    records(SecAgg(), executor=executor)
    assert leaked_values(executor.seen, kept) == {"integers"}


def test_clients_metrics_do_not_leave_the_worker():
    executor = Recorder()
    records(SecAgg(), executor=executor)
    results = [pickle.loads(content) for content in executor.seen[1::2]]
    partials = [result for job, result in zip(executor.jobs, results, strict=True) if isinstance(job, TrainJob)]
    assert len(partials) == 7
    assert all((partial.metrics, partial.weight, partial.sum_of_squares) == ({}, 0, 0) for partial in partials)
