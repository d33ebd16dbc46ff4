"""What a user adds stands in one file outside the package: here a stage of the channel that does nothing but count."""

import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedlit.cli import train
from fedlit.core.serialization import from_safetensors, unflatten_state
from fedlit.server.checkpoint.client_states import read_client_states

COUNT = '''
import torch

from fedlit import Order, Stage, StageState


class Count(Stage):
    """Counts rounds on the server, and its own messages on each client."""

    order = Order.PROTECT

    def init(self, layout):
        return StageState(shared={"size": torch.tensor(layout.size)}, private={"rounds": torch.tensor(0)})

    def encode(self, vector, ticket):
        assert len(vector) == int(ticket.shared["size"])
        return vector, {"messages": ticket.own.get("messages", torch.tensor(0)) + 1}

    def open(self, total, ticket, state):
        return total, StageState(state.shared, {"rounds": state.private["rounds"] + 1})
'''
SMALL = [
    *("schedule.clients_per_round=2", "schedule.local_steps=2", "partition.num_clients=3", "observers=none"),
    "model=logistic",
]
PROCESSES = ["executor=processes", "executor.workers=2"]

pytestmark = pytest.mark.slow


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
    train.main()


def test_a_stage_that_counts_goes_through_configuration_processes_and_resume(tmp_path, monkeypatch):
    (tmp_path / "my_count.py").write_text(COUNT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FEDLIT_ALLOW", "my_count")
    count = "+channel.count._target_=my_count.Count"
    command(monkeypatch, *SMALL, "executor=inline", count, "schedule.rounds=2", "hydra.run.dir=counted")
    command(monkeypatch, "resume=counted", *PROCESSES, "schedule.rounds=4")
    command(monkeypatch, *SMALL, "executor=inline", "schedule.rounds=4", "hydra.run.dir=plain")

    counted, plain = (load_file(Path(name) / "model.safetensors") for name in ("counted", "plain"))
    assert all(counted[name].equal(plain[name]) for name in plain)
    (newest,) = Path("counted/checkpoints").glob("round-*")
    state = unflatten_state(from_safetensors((newest / "state.safetensors").read_bytes()), 4)
    assert int(state.channel["count"].private["rounds"]) == 4
    messages = {}
    for path in sorted(Path("counted/checkpoints").glob("*/memories.safetensors")):
        states = read_client_states(path, load_file(path)["clients"].tolist())
        messages |= {client: int(groups["channel/count"]["messages"]) for client, groups in states.items()}
    assert sum(messages.values()) == 2 * 4
