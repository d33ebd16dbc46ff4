"""FedExP: exact numbers by hand with a fake fit, its limit, and the command that finds it."""

import json
import pickle
import sys

import pytest
import torch
from fedlit_fedexp import FedExP

from fedlit import Aggregate, FedAvg, FitResult, Model
from fedlit.cli import train
from fedlit.core.errors import ConfigError

X = Model({"w": torch.tensor([1.0, 2.0])}, {"mean": torch.tensor([0.0])})


class FakeLocal:
    """Local training that moves w by given numbers."""

    def __init__(self, *move):
        self.move = {"parameters": {"w": torch.tensor(move)}, "buffers": {"mean": torch.tensor([1.0])}}

    def fit(self, model, *terms):
        return FitResult(model.add(self.move), steps=5, examples=10, metrics={})


def train_a_round(algorithm, *clients):
    """Return the server state after one round of the clients."""
    state = algorithm.init(X)
    updates = [algorithm.client(local, state.shared, {}) for local in clients]
    assert len({update.weight for update in updates}) == 1
    mean = {
        group: {name: sum(update.groups[group][name].double() for update in updates) / len(updates) for name in tensors}
        for group, tensors in updates[0].groups.items()
    }
    return algorithm.server(state, Aggregate(mean, sum(u.weight for u in updates), len(updates), len(updates)))


def test_clients_that_disagree_give_a_long_step():
    state = train_a_round(
        FedExP(epsilon=0.5), FakeLocal(3.0, 1.0), FakeLocal(-1.0, 1.0)
    )  # mean (1, 1), squares 10 and 2
    step = 6 / (2 * (2 + 0.5))
    assert FedExP().metrics(state)["fedexp/step"] == pytest.approx(step)
    assert state.model.parameters["w"].tolist() == pytest.approx([1 + step, 2 + step])
    assert state.model.buffers["mean"].tolist() == [1.0]  # averaged, at any step


def test_clients_that_agree_give_fedavg():
    clients = [FakeLocal(1.0, -2.0), FakeLocal(1.0, -2.0)]
    assert train_a_round(FedExP(), *clients).model.equals(train_a_round(FedAvg(), *clients).model)


def test_it_crosses_to_worker_processes():
    assert pickle.loads(pickle.dumps(FedExP(epsilon=0.1))) == FedExP(epsilon=0.1)


def test_an_epsilon_of_0_is_refused():
    with pytest.raises(ConfigError, match="must be greater than 0"):
        FedExP(epsilon=0.0)


def test_the_command_finds_it_by_its_name(tmp_path, monkeypatch):
    """Hydra finds `hydra_plugins` on the path, as it does in an installed package."""
    settings = ["schedule.rounds=2", "schedule.local_steps=2", "executor=inline", "observers=none"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedlit", "algorithm=fedexp", *settings, "hydra.run.dir=run"])
    train.main()
    records = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert len(records) == 2
    assert all(record["fedexp/step"] >= 1 for record in records)
