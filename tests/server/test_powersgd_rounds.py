"""Whole rounds with PowerSGD's two exchanges: the same bits everywhere, losses, bytes."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from shared_processes import assert_same_in_processes_and_after_a_stop, results
from small import ready

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import PowerSGD
from fedlit.algorithms import FedAvg, FedNova, Scaffold
from fedlit.core.messages import ExchangeJob
from fedlit.executors.executor import Executor
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checks.compatibility import federation_facts
from fedlit.simulation.client_faults import Corrupt, Drop
from fedlit.simulation.faults import FailurePolicy, FaultPlan

FAULTS = FailurePolicy(
    plans=(
        FaultPlan(Corrupt(), 1.0, clients=[1], rounds=[2]),
        FaultPlan(Drop(exchange=1), 1.0, clients=[0], rounds=[3]),
        FaultPlan(Drop(exchange=2), 1.0, clients=[2], rounds=[3]),
    )
)
CHANNELS = [
    Channel.of([PowerSGD(2)], error_feedback=True),
    Channel.of([PowerSGD(1, warm_start=False)]),
]


def federation(channel, algorithm=None, folder=None, faults=FAULTS, **setting):
    fed = ready(algorithm or FedAvg(), **{"rounds": 4, "cohort": 3, "samples": 60, **setting})
    fed = fed.with_worker(replace(fed.worker, channel=channel, faults=faults))
    return fed if folder is None else replace(fed, checkpointer=DiskCheckpointer(folder))


def drop_second(clients):
    return FailurePolicy(plans=(FaultPlan(Drop(exchange=2), 1.0, clients=clients),))


@pytest.mark.slow
def test_results_are_bit_identical_in_processes_and_after_a_stop(tmp_path):
    warm, cold = assert_same_in_processes_and_after_a_stop(federation, CHANNELS, tmp_path)
    assert warm[-1][0] != cold[-1][0]


class Interrupted(Executor):
    """An executor that ends in round 2, after the first answer in the second exchange."""

    def open(self, worker, rounds):
        return nullcontext(lambda jobs, state: self._run(worker, jobs, state))

    def _run(self, worker, jobs, state):
        for job in jobs:
            yield worker(job, state)
            if isinstance(job, ExchangeJob) and job.round == 1:
                raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_that_is_killed_within_the_second_exchange_repeats_the_round(tmp_path):
    expected = results(federation(CHANNELS[0], faults=FailurePolicy()))
    fed = federation(CHANNELS[0], folder=tmp_path, faults=FailurePolicy())
    with pytest.raises(KeyboardInterrupt):
        list(replace(fed, executor=Interrupted()).run())
    assert expected[1:] == results(fed)


@pytest.mark.slow
def test_with_full_rank_it_is_the_mean_of_the_clients_in_both_exchanges():
    """A client that is lost in the second exchange counts as one that never answered."""
    channel, plain = Channel.of([PowerSGD(1000)]), Channel.of()
    for faults in (FailurePolicy(), drop_second([1])):
        first = next(iter(federation(channel, faults=faults, cohort=4, clients=4).run()))
        without = FailurePolicy(plans=(FaultPlan(Drop(), 1.0, clients=[f.client for f in first.failures]),))
        other = next(iter(federation(plain, faults=without, cohort=4, clients=4).run()))
        assert [failure.client for failure in first.failures] == [f.client for f in other.failures]
        for name, tensor in other.model.parameters.items():
            assert torch.allclose(first.model.parameters[name], tensor, atol=1e-6), name


@pytest.mark.slow
def test_only_a_client_in_both_exchanges_gets_a_new_residual(tmp_path):
    before, seen = {}, set()
    for record in federation(CHANNELS[0], folder=tmp_path).run():
        states = DiskCheckpointer(tmp_path).peek({}).client_states.read(range(4))
        residuals = {client: groups["channel/powersgd"]["residual"] for client, groups in states.items()}
        assert all(list(groups["channel/powersgd"]) == ["residual"] for groups in states.values())
        lost = {failure.client for failure in record.failures}
        for client in range(4):
            same = client in before and torch.equal(before[client], residuals[client])
            absent = client not in before and client not in residuals
            assert (same or absent) == (client not in set(record.cohort) - lost)
            seen.add((client in record.cohort, client in lost))
        before = residuals
    assert seen == {(True, False), (True, True), (False, False)}


@pytest.mark.slow
def test_a_round_in_which_no_client_answers_twice_is_lost_and_keeps_the_state():
    fed = federation(CHANNELS[0], faults=drop_second([0, 1, 2, 3]), rounds=1)
    (record,) = fed.run()
    assert "0 updates arrived" in record.lost
    assert len(record.failures) == len(record.cohort)
    start = fed.initial_state().model.parameters
    assert all(torch.equal(record.model.parameters[name], tensor) for name, tensor in start.items())


@pytest.mark.slow
def test_bytes_of_both_exchanges_count():
    fed = federation(CHANNELS[0], faults=drop_second([1]), rounds=2, cohort=4, clients=4)
    layout = fed.update_layout(fed.initial_state())
    up, down = CHANNELS[0].stages[0].exchange_nbytes(layout)
    for record in fed.run():
        assert record.metrics["clients/trained"] == 3
        assert record.metrics["comm/up_bytes"] == 4 * CHANNELS[0].nbytes(layout) + 3 * up
        assert record.metrics["comm/down_bytes"] == 4 * (fed.down_nbytes(fed.initial_state()) + down)
    assert fed.exchange_nbytes() == (up, down)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold()], ids=["fednova", "scaffold"])
def test_algorithms_with_more_groups_stay_finite(algorithm):
    records = list(federation(CHANNELS[0], algorithm).run())
    assert not [record.lost for record in records if record.lost]
    assert all(bool(tensor.isfinite().all()) for tensor in records[-1].model.parameters.values())


def test_a_third_exchange_is_not_there():
    fed = federation(CHANNELS[0])
    facts = federation_facts(fed, (), None, fed.worker.replica.module)
    assert not list(Drop(exchange=2).check(facts))
    (error,) = Drop(exchange=3).check(facts)
    assert "basis, factors" in str(error)
