"""A client's local training, repeated from the nearest checkpoint."""

import json
import sys
import time
from argparse import Namespace

import pytest
import torch
import yaml
from configured import compose_plain

from fedlit.algorithms import FedAvg
from fedlit.cli.arguments import replay_command
from fedlit.cli.evaluate import evaluate_run
from fedlit.cli.replay import print_replay, replay_client
from fedlit.client.trainer import LocalTrainer
from fedlit.core.errors import ConfigErrors
from fedlit.experiment.runner import run_experiment
from fedlit.server.setup import Federation

pytestmark = pytest.mark.slow  # whole runs

SMALL = ["model=logistic", "schedule.rounds=4", "schedule.local_steps=3", "schedule.client_state=keep"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run's folder, and each client's parameters."""
    folder, parameters, rule = tmp_path_factory.mktemp("replay") / "run", {}, FedAvg.client

    def client(self, local, shared, client_state):
        update = rule(self, local, shared, client_state)
        if isinstance(local, LocalTrainer):  # the shapes of an update are read from a client without examples
            parameters[local.round + 1, local.client] = update.groups["parameters"]
        return update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FedAvg, "client", client)
        optimizer = "model.optimizer.momentum=0.9"
        run_experiment(
            compose_plain(*SMALL, optimizer, "checkpoint.every=2", "schedule.lr=cosine"), folder, {}, time.time()
        )
    return folder, parameters


def cohort(folder, round):
    return json.loads((folder / "rounds.jsonl").read_text().splitlines()[round - 1])["cohort"]


@pytest.mark.parametrize(("round", "start", "recomputed"), [(1, 0, 0), (2, 0, 1), (3, 2, 0), (4, 2, 1)])
def test_a_repeated_update_is_bit_identical(recorded, round, start, recomputed):
    folder, parameters = recorded
    for client in cohort(folder, round)[:2]:
        result = replay_client(folder, round, client)
        assert (result.start, result.recomputed) == (start, recomputed)
        assert [fit.steps for fit in result.fits] == [3]
        for name, tensor in parameters[round, client].items():
            assert torch.equal(result.update.groups["parameters"][name], tensor)


def test_the_whole_round_has_its_digest_and_another_digest_is_an_error(recorded, tmp_path):
    folder, _ = recorded
    client = cohort(folder, 3)[0]
    assert replay_client(folder, 3, client, whole=True).recomputed == 1
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), "state_sha256": "0" * 64})
    for name in ("config.yaml", "checkpoints"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    assert replay_client(tmp_path, 3, client).recomputed == 0
    with pytest.raises(ConfigErrors, match="round 3 has another digest than in the run"):
        replay_client(tmp_path, 3, client, whole=True)


def test_a_round_of_stacks_has_its_digest_and_the_client_alone_agrees(tmp_path, capsys):
    folder, updates, rule = tmp_path / "run", {}, FedAvg.client

    def client(self, local, shared, client_state):
        update = rule(self, local, shared, client_state)
        if isinstance(local, LocalTrainer):
            updates[local.round + 1, local.client] = update.groups["parameters"]
        return update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FedAvg, "client", client)
        stacks = ["executor=vectorized", "executor.group_size=2", "model.optimizer.momentum=0.9"]
        run_experiment(compose_plain(*SMALL, *stacks), folder, {}, time.time())
    chosen = cohort(folder, 2)[-1]
    result = replay_client(folder, 2, chosen, whole=True)
    assert (result.recomputed, result.was_stacked) == (2, True)
    for name, tensor in result.update.groups["parameters"].items():
        assert torch.allclose(tensor, updates[2, chosen][name], rtol=2e-5, atol=2e-5 * float(tensor.abs().max()))
    options = Namespace(run=folder, round=1, client=cohort(folder, 1)[0], allow=(), whole=False, debug=False)
    print_replay(options)
    assert "trained in a stack" in " ".join(capsys.readouterr().out.split())


def test_errors_are_reported(recorded, tmp_path):
    folder, _ = recorded
    absent = next(client for client in range(10) if client not in cohort(folder, 2))
    for arguments, expected in (
        ((folder, 9, 0), "must be from 1 to 4"),
        ((folder, 2, absent), f"was not in the cohort of round 2: {', '.join(map(str, cohort(folder, 2)))}"),
        ((tmp_path, 1, 0), "has no config.yaml"),
    ):
        with pytest.raises(ConfigErrors, match=expected):
            replay_client(*arguments)


def test_rounds_beyond_the_configurations_are_checked_and_an_incomplete_line_is_no_record(recorded, tmp_path):
    folder, _ = recorded
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["schedule"] |= {"rounds": 1, "lr": "constant"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "rounds.jsonl").write_text((folder / "rounds.jsonl").read_text() + '{"rou')
    client = cohort(folder, 2)[0]
    with pytest.raises(ConfigErrors, match="round 2 has another digest than in the run"):  # at another learning rate
        replay_client(tmp_path, 2, client, whole=True)


def test_a_round_that_the_run_does_not_reach_is_an_error(recorded, monkeypatch):
    folder, _ = recorded
    monkeypatch.setattr(Federation, "run", lambda self: iter(()))
    with pytest.raises(ConfigErrors, match="was not reached"):
        replay_client(folder, 2, cohort(folder, 2)[0])


def test_a_client_after_the_deadline_does_not_train_and_a_step_budget_holds_again(tmp_path, capsys, monkeypatch):
    table = tmp_path / "speeds.csv"
    rows = [f"{client},{0.01 if client else 0.1 + client},1e6,1e6" for client in range(3)]
    table.write_text("client,step_s,up_bytes_s,down_bytes_s\n" + "\n".join(rows) + "\n")
    slow = ["clock=table", f"clock.table={table}", "clock.deadline_s=0.25"]
    whole = ["partition=iid", "partition.num_clients=3", "schedule.client_fraction=1", "schedule.rounds=1"]
    for late in ("drop", "cut"):
        folder = tmp_path / late
        run_experiment(
            compose_plain(*SMALL[:1], "schedule.local_steps=3", *whole, *slow, f"clock.late={late}"),
            folder,
            {},
            time.time(),
        )
        slow_client, other = replay_client(folder, 1, 0, whole=True), replay_client(folder, 1, 1)
        assert (slow_client.update is None, slow_client.steps, [fit.steps for fit in slow_client.fits]) == (
            (True, None, []) if late == "drop" else (False, 2, [2])
        )
        assert (other.steps, other.excluded, [fit.steps for fit in other.fits]) == (None, None, [3])
        monkeypatch.setattr(sys, "argv", ["replay", str(folder), "--round", "1", "--client", "0"])
        replay_command()
        printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert ("did not train deadline: would have taken" if late == "drop" else "step budget 2 steps") in printed


def test_a_module_whose_files_leave_something_out_is_resumed_evaluated_and_replayed(tmp_path):
    overrides = ["model=custom", "model._target_=odd_modules.ExtraState", "monitor.name=val_loss", "monitor.mode=min"]
    overrides += ["schedule.local_steps=3", "schedule.rounds=2"]
    run_experiment(compose_plain(*overrides), tmp_path, {}, time.time())
    config = compose_plain(*overrides[:-1], "schedule.rounds=3", f"resume={tmp_path}")
    run_experiment(config, tmp_path, {}, time.time())
    for checkpoint, entry in (("best", "best"), ("model", "last")):
        summary, metrics = evaluate_run(tmp_path, [], checkpoint, None, ["odd_modules"])
        assert summary["rounds"] == 3
        assert metrics
        assert all(value == summary[entry]["metrics"][name] for name, value in metrics.items())
    client = cohort(tmp_path, 3)[0]
    assert replay_client(tmp_path, 3, client, ["odd_modules"], whole=True).recomputed == 3
