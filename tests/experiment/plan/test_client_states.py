"""Client states of a run stay below the estimate before round 1."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import federation
from safetensors.torch import load_file

from fedlit.aggregation import Channel
from fedlit.aggregation.compression import PowerSGD, RandK, TopK
from fedlit.algorithms.personalization.ditto import Ditto
from fedlit.client.trainer import TrainerConfig
from fedlit.core.serialization import groups_nbytes
from fedlit.data import Data
from fedlit.experiment.observers import Run
from fedlit.experiment.plan.client_states import MemoryEstimate, client_state_nbytes, estimate_client_state
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.client_states import read_client_states
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checkpoint.segments import CLIENT_STATES
from fedlit.server.evaluation import Evaluations


def make_run(retention, folder=Path("nowhere"), state="keep", **more):
    fed = federation(recipe=TrainerConfig({"accelerator": "cpu"}, keep_optimizer=state == "keep"), **more)
    fed = replace(fed, checkpointer=DiskCheckpointer(folder, retention))
    return Run(folder, {}, fed, Data("images", fed.worker.data.train, None, (), ()), {}, retention=retention)


def clients_in(path):
    """The clients with a state in a segment."""
    return load_file(path)["clients"].tolist()


def nbytes_on_disk(folder):
    """Bytes of the client states in all checkpoints."""
    files = folder.glob(f"checkpoints/*/{CLIENT_STATES}")
    segments = [read_client_states(path, clients_in(path)) for path in files]
    return sum(groups_nbytes(state) for segment in segments for state in segment.values())


@pytest.mark.parametrize(
    ("clients", "cohort", "retention"), [(6, 2, Retention(1)), (3, 3, Retention(2)), (6, 2, Retention(1, every=2))]
)
def test_client_states_on_disk_stay_below_the_estimate(tmp_path, clients, cohort, retention):
    run = make_run(retention, tmp_path, clients=clients, cohort=cohort, rounds=6, local_steps=1, eval_every=9)
    estimate = estimate_client_state(run, client_state_nbytes(run))
    largest = 0
    for _ in run.federation.run():
        largest = max(largest, nbytes_on_disk(tmp_path))
    assert 0 < estimate.client <= largest <= estimate.disk


def test_estimate_counts_only_clients_that_can_take_part():
    few = make_run(Retention(2), clients=100, cohort=2, rounds=3)
    assert estimate_client_state(few, 10) == MemoryEstimate(10, ram=10 * 3 * 2, disk=10 * 2 * 3)
    everyone = make_run(Retention(2, every=10), clients=4, cohort=4, rounds=100)
    assert estimate_client_state(everyone, 10).disk == 10 * 4 * (1 + 10 + 2)


@pytest.mark.parametrize(("clients", "ram"), [("cohort", 3 * 2), ("all", 2 + 20), (10, 2 + 10)])
def test_estimate_counts_the_client_states_that_an_evaluation_reads(clients, ram):
    run = make_run(Retention(2), clients=100, cohort=2, rounds=10)
    registry = replace(run.federation.registry, num_client_tests=100)
    parts = {"algorithm": Ditto(), "evaluations": Evaluations(clients), "registry": registry}
    estimate = estimate_client_state(replace(run, federation=replace(run.federation, **parts)), 10)
    assert estimate.ram == 10 * ram


@pytest.mark.parametrize("codec", [TopK(), RandK(), PowerSGD(1)])
def test_the_residual_of_error_feedback_is_client_state(codec):
    run = make_run(Retention(), state="reset")
    worker = replace(run.federation.worker, channel=Channel.of([codec], error_feedback=True))
    run = replace(run, federation=run.federation.with_worker(worker))
    numbers = sum(tensor.numel() for tensor in run.federation.initial.parameters.values())
    assert client_state_nbytes(run) == 4 * numbers


def test_clients_without_state_take_no_memory():
    assert client_state_nbytes(make_run(Retention(), state="reset")) == 0
