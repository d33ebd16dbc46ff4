"""Whole rounds with each codec: the same bits everywhere, and residuals that only accepted updates change."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from configured import build
from shared_processes import assert_same_in_processes_and_after_a_stop, results
from small import ready

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import QSGD, Half, Int8, RandK, Sign, TopK
from fedlit.algorithms import FedAvg, FedNova, Scaffold
from fedlit.core.messages import TrainJob
from fedlit.executors.executor import Executor
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


@pytest.mark.slow
def test_results_are_bit_identical_in_processes_and_after_a_stop(tmp_path):
    assert_same_in_processes_and_after_a_stop(compressed, CHANNELS, tmp_path)


class Killed(Executor):
    """An executor whose process is killed in round 2, after the first client's update."""

    def open(self, worker, rounds):
        return nullcontext(lambda jobs, state: self._run(worker, jobs, state))

    def _run(self, worker, jobs, state):
        for job in jobs:
            yield worker(job, state)
            if isinstance(job, TrainJob) and job.round == 1:
                os.kill(os.getpid(), signal.SIGKILL)


KILLED = (2, 3, 4)
"""Numbers of channels with error feedback: qsgd, topk and randk."""

SCRIPT = """
import os, sys
from dataclasses import replace
from pathlib import Path
import torch
from test_compressed_rounds import CHANNELS, KILLED, Killed, compressed

torch.set_num_threads(1)
for which in KILLED:
    child = os.fork()  # a new process would load torch again
    if not child:
        list(replace(compressed(CHANNELS[which], folder=Path(sys.argv[1]) / f"{which}"), executor=Killed()).run())
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_a_run_whose_process_is_killed_within_a_round_repeats_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-W", "ignore", str(tmp_path / "script.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=240)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(KILLED)
    for which in KILLED:
        rest = results(compressed(CHANNELS[which], folder=tmp_path / f"{which}"))
        assert rest == results(compressed(CHANNELS[which]))[1:], CHANNELS[which]


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
