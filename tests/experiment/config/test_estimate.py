"""The bound of what clients' memories take is kept by the run."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import federation

from fedlit.client.trainer import TrainerConfig
from fedlit.core import serialization as wire
from fedlit.core.serialization import groups_nbytes
from fedlit.data import Data
from fedlit.experiment.config.estimate import MemoryEstimate, client_state_nbytes, estimate_client_state
from fedlit.experiment.observers import Run
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.checkpoint.format import CLIENT_STATES


def a_run(keeping, folder=Path("nowhere"), state="keep", **more):
    fed = federation(recipe=TrainerConfig({"accelerator": "cpu"}, keep_optimizer=state == "keep"), **more)
    fed = replace(fed, checkpointer=DiskCheckpointer(folder, keeping))
    return Run(folder, {}, fed, Data("images", fed.worker.data.train, None, (), ()), {}, retention=keeping)


def on_disk(folder):
    files = folder.glob(f"checkpoints/*/{CLIENT_STATES}")
    found = [wire.unflatten_client_states(wire.from_safetensors(path.read_bytes())) for path in files]
    return sum(groups_nbytes(memory) for memories in found for memory in memories.values())


@pytest.mark.parametrize(
    ("clients", "cohort", "keeping"), [(6, 2, Retention(1)), (3, 3, Retention(2)), (6, 2, Retention(1, every=2))]
)
def test_memories_stay_below_their_bound_in_ram_and_on_disk(tmp_path, clients, cohort, keeping):
    run = a_run(keeping, tmp_path, clients=clients, cohort=cohort, rounds=6, local_steps=1, eval_every=9)
    room = estimate_client_state(run, client_state_nbytes(run))
    most = 0
    for _ in run.federation.run():
        most = max(most, on_disk(tmp_path))
    assert 0 < room.client <= most <= room.disk


def test_the_bound_is_that_of_those_who_may_take_part():
    few = a_run(Retention(2), clients=100, cohort=2, rounds=3)
    assert estimate_client_state(few, 10) == MemoryEstimate(10, ram=10 * (6 + 2), disk=10 * 2 * 3)
    all_of_them = a_run(Retention(2, every=10), clients=4, cohort=4, rounds=100)
    assert estimate_client_state(all_of_them, 10).disk == 10 * 4 * (1 + 10 + 2)


def test_clients_that_remember_nothing_take_nothing():
    assert client_state_nbytes(a_run(Retention(), state="reset")) == 0
