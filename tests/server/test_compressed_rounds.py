"""Whole rounds with each codec: the same bits everywhere, and residuals that only accepted updates change."""

from dataclasses import replace

import pytest
import torch
from configured import build
from shared_processes import Several, SharedProcesses, comparable
from small import ready

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import QSGD, Half, Int8, RandK, Sign, TopK
from fedlit.algorithms import FedAvg, FedNova, Scaffold
from fedlit.executors import Processes
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checks.compatibility import federation_facts
from fedlit.simulation.client_faults import Corrupt, Drop
from fedlit.simulation.faults import FailurePolicy, FaultPlan

FAULTS = FailurePolicy(
    plans=(
        FaultPlan(Corrupt(), 1.0, clients=[1], rounds=[2]),
        FaultPlan(Drop("after"), 1.0, clients=[0, 2], rounds=[3]),
    )
)
CHANNELS = [
    Channel.of([Half()], error_feedback=True, down=Half("float16")),
    Channel.of([Int8()], down=Int8()),
    Channel.of([QSGD(levels=63)], error_feedback=True, down=QSGD(levels=127)),
    Channel.of([TopK(0.05)], error_feedback=True),
    Channel.of([RandK(0.2)], error_feedback=True),
    Channel.of([RandK(0.2), Int8()]),
    Channel.of([Sign()], error_feedback=True),
    Channel.of([Sign("majority")]),
]


def compressed(channel, algorithm=None, folder=None, **setting):
    """A federation whose clients send a packed update, also of the buffers of BatchNorm."""
    fed = ready(algorithm or FedAvg(), **{"rounds": 3, "cohort": 3, "samples": 60, **setting})
    fed = fed.with_worker(replace(fed.worker, channel=channel, faults=FAULTS))
    return fed if folder is None else replace(fed, checkpointer=DiskCheckpointer(folder))


def results(fed):
    return [comparable(record) for record in fed.run()]


@pytest.mark.slow
def test_results_are_bit_identical_in_processes_and_after_a_stop(tmp_path):
    expected = [results(compressed(channel)) for channel in CHANNELS]
    assert all(any(failures for _, failures, _ in rounds) for rounds in expected)
    workers = tuple(compressed(channel).worker for channel in CHANNELS)
    with Processes(2).open(Several(workers), 1) as execute:
        for which, channel in enumerate(CHANNELS):
            fed = replace(compressed(channel), executor=SharedProcesses(execute=execute, which=which))
            assert results(fed) == expected[which], channel
    for which, channel in enumerate(CHANNELS):
        fed = compressed(channel, folder=tmp_path / f"{which}")
        stopped = fed.run()
        first = comparable(next(stopped))
        stopped.close()
        assert [first, *results(fed)] == expected[which], channel


@pytest.mark.slow
@pytest.mark.parametrize("channel", [CHANNELS[3], CHANNELS[4]], ids=["codec", "stage"])
def test_only_an_accepted_update_changes_a_residual(tmp_path, channel):
    before, changes = {}, []
    for record in compressed(channel, folder=tmp_path).run():
        states = DiskCheckpointer(tmp_path).peek({}).client_states.read(range(4))
        residuals = {client: groups[f"channel/{type_of(channel)}"]["residual"] for client, groups in states.items()}
        lost = {failure.client for failure in record.failures}
        for client in range(4):
            same = client in before and client in residuals and torch.equal(before[client], residuals[client])
            absent = client not in before and client not in residuals
            assert (same or absent) == (client not in set(record.cohort) - lost)
            changes.append((client in record.cohort, client in lost))
        before = residuals
    assert {(True, False), (True, True), (False, False)} == set(changes)


@pytest.mark.slow
def test_one_percent_with_error_feedback_trains_the_digits_in_an_eightieth_of_the_bytes():
    setting = ["model=mlp", "executor=inline", "schedule.rounds=100", "schedule.eval_every=100"]
    runs = [list(build(*setting, f"compression={choice}").federation.run()) for choice in ("none", "topk")]
    whole, packed = (sum(record.metrics["comm/up_bytes"] for record in records) for records in runs)
    plain, sparse = (records[-1].metrics["test/accuracy"] for records in runs)
    assert sparse > plain - 0.02
    assert packed <= whole / 40


def type_of(channel):
    return channel.stages[0].name if channel.stages else channel.codec.name


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [FedNova(), Scaffold()], ids=["fednova", "scaffold"])
def test_algorithms_with_more_groups_stay_finite(algorithm):
    for channel in (CHANNELS[3], CHANNELS[5], CHANNELS[6]):
        records = list(compressed(channel, algorithm, rounds=3).run())
        assert not [record.lost for record in records if record.lost]
        assert all(bool(tensor.isfinite().all()) for tensor in records[-1].model.parameters.values())
        assert min(float(t.min()) for name, t in records[-1].model.buffers.items() if "running_var" in name) > 0


def test_the_broadcast_has_exact_buffers_and_rounded_parameters():
    fed = compressed(CHANNELS[1])
    state = fed.initial_state()
    buffers = {name: tensor + torch.rand(tensor.shape) for name, tensor in state.model.buffers.items()}
    sent = fed.broadcast(state.with_shared(model=replace(state.model, buffers=buffers))).model
    assert all(torch.equal(sent.buffers[name], tensor) for name, tensor in buffers.items())
    assert not all(torch.equal(sent.parameters[name], tensor) for name, tensor in state.model.parameters.items())


def test_a_majority_vote_is_refused_for_control_variates():
    fed = compressed(CHANNELS[-1], Scaffold())
    facts = federation_facts(fed, (), None, fed.worker.replica.module)
    (error,) = [each for each in fed.channel.check(facts) if each.key == "compression.vote"]
    assert "no meaning for control of Scaffold" in str(error)
