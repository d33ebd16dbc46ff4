"""The bound of what clients' memories take is kept by the run."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import federation

from fedlit.client.trainer import Recipe
from fedlit.core import serialization as wire
from fedlit.data import Data
from fedlit.experiment.config.estimate import Room, length_of, memory_of_a_client, room_for_memories
from fedlit.experiment.observers import Run
from fedlit.server.checkpoint.disk import Checkpoints, Keeping
from fedlit.server.checkpoint.format import MEMORIES


def a_run(keeping, folder=Path("nowhere"), state="keep", **more):
    fed = federation(recipe=Recipe({"accelerator": "cpu"}, keep=state == "keep"), **more)
    fed = replace(fed, commits=Checkpoints(folder, keeping))
    return Run(folder, {}, fed, Data("images", fed.worker.holdings.train, None, (), ()), {}, keeping=keeping)


def on_disk(folder):
    files = folder.glob(f"checkpoints/*/{MEMORIES}")
    found = [wire.thaw_memories(wire.thaw(path.read_bytes())) for path in files]
    return sum(length_of(memory) for memories in found for memory in memories.values())


@pytest.mark.parametrize(
    ("clients", "cohort", "keeping"), [(6, 2, Keeping(1)), (3, 3, Keeping(2)), (6, 2, Keeping(1, every=2))]
)
def test_memories_stay_below_their_bound_in_ram_and_on_disk(tmp_path, clients, cohort, keeping):
    run = a_run(keeping, tmp_path, clients=clients, cohort=cohort, rounds=6, local_steps=1, eval_every=9)
    room = room_for_memories(run, memory_of_a_client(run))
    most = 0
    for _ in run.federation.run():
        most = max(most, on_disk(tmp_path))
    assert 0 < room.client <= most <= room.disk


def test_the_bound_is_that_of_those_who_may_take_part():
    few = a_run(Keeping(2), clients=100, cohort=2, rounds=3)
    assert room_for_memories(few, 10) == Room(10, ram=10 * (6 + 2), disk=10 * 2 * 3)
    all_of_them = a_run(Keeping(2, every=10), clients=4, cohort=4, rounds=100)
    assert room_for_memories(all_of_them, 10).disk == 10 * 4 * (1 + 10 + 2)


def test_clients_that_remember_nothing_take_nothing():
    assert memory_of_a_client(a_run(Keeping(), state="reset")) == 0
