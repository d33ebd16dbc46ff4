"""A finished run, evaluated again."""

import json
import shutil
import time

import pytest
import yaml
from configured import MODULE, compose_plain

from fedlit.cli.evaluate import evaluate_run, held_out_keys
from fedlit.core.errors import ConfigErrors
from fedlit.experiment.config.instantiate import import_object
from fedlit.experiment.runner import run_experiment

pytestmark = pytest.mark.slow  # whole runs


def finished_run(folder, *overrides):
    """The folder of a finished run, made without the command."""
    run_experiment(compose_plain("schedule.rounds=3", "schedule.local_steps=5", *overrides), folder, {}, time.time())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(("checkpoint", "entry"), [("best", "best"), ("model", "last")])
def test_a_finished_run_has_the_metrics_of_its_summary(folder, checkpoint, entry):
    summary, metrics = evaluate_run(folder, [], checkpoint, None, [])
    assert set(metrics) == {"val/loss", "val/accuracy", "test/loss", "test/accuracy"}
    for name, value in metrics.items():
        assert value == summary[entry]["metrics"][name]
    assert summary == json.loads((folder / "summary.json").read_text())


def test_a_split_can_be_selected_and_values_can_be_changed(folder):
    _, metrics = evaluate_run(folder, ["data.eval_batch_size=7"], "best", ["test"], [])
    assert set(metrics) == {"test/loss", "test/accuracy"}


def test_client_test_sets_are_those_of_the_rounds_cohort_and_belong_to_the_test_split(tmp_path):
    config = ["data.client_test_fraction=0.3", "schedule.clients_per_round=2", "model=logistic"]
    path = finished_run(tmp_path, *config, "schedule.lr=step", "schedule.lr_every=1", "schedule.lr_gamma=0.0001")
    for checkpoint, entry in (("best", "best"), ("model", "last")):
        summary, metrics = evaluate_run(path, [], checkpoint, None, [])
        assert {name for name in metrics if name.startswith("own/")} >= {"own/accuracy", "own/loss_std"}
        for name, value in metrics.items():
            assert value == summary[entry]["metrics"][name]
    assert summary["best"]["round"] < 3
    assert set(evaluate_run(path, [], "best", ["val"], [])[1]) == {"val/loss", "val/accuracy"}


ALGORITHM = """
from dataclasses import dataclass
from fedlit import FedAvg

@dataclass(frozen=True)
class Renamed(FedAvg):
    def init(self, model):
        return super().init(model).with_shared(center=model)
    def client(self, local, shared, client_state):
        return super().client(local, {"model": shared["center"], "center": shared["center"]}, client_state)
    def server(self, state, mean):
        return state.with_shared(center=state.shared["center"].add(mean.groups))
    def model(self, shared):
        return shared["center"]
"""


def test_an_algorithm_with_its_own_state_and_a_deleted_initial_checkpoint_can_be_evaluated(
    folder, tmp_path, monkeypatch
):
    (tmp_path / "my_renamed.py").write_text(ALGORITHM)
    monkeypatch.syspath_prepend(tmp_path)
    start = tmp_path / "start.ckpt"
    start.write_bytes((folder / "model.ckpt").read_bytes())
    overrides = ["algorithm=custom", "algorithm._target_=my_renamed.Renamed", f"model.init_from={start}"]
    path = finished_run(tmp_path / "run", *overrides)
    start.unlink()
    assert "would change nothing" in errors_of(path, ["model.init_from=x"], "model", None, ["my_renamed"])[0]
    summary, metrics = evaluate_run(path, [], "model", ["test"], ["my_renamed"])
    assert metrics == {name: summary["last"]["metrics"][name] for name in ("test/loss", "test/accuracy")}


def test_evaluation_needs_no_table_of_client_speeds(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["clock"], config["schedule"]["over_select"] = {"table": "deleted.csv"}, 2.0
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert set(evaluate_run(copy, [], "best", ["test"], [])[1]) == {"test/loss", "test/accuracy"}


def errors_of(*arguments):
    with pytest.raises(ConfigErrors) as error:
        evaluate_run(*arguments)
    return [str(problem) for problem in error.value.errors]


def test_errors_are_reported(folder, tmp_path):
    assert "has no config.yaml" in errors_of(tmp_path, [], "best", None, [])[0]
    assert "did you mean data.eval_batch_size?" in errors_of(folder, ["data.eval_batch_siz=7"], "best", None, [])[0]
    (error,) = errors_of(folder, ["data.root=elsewhere"], "best", None, [])
    assert "did you mean" not in error
    assert "data has the keys _target_, mean, std, " in error
    (error,) = errors_of(folder, ["data=heart_disease"], "best", None, [])
    assert "data=heart_disease: has keys of its own, and cannot be changed as a whole" in error
    assert "change values below it: data._target_, data.mean, " in error
    other = finished_run(tmp_path / "other", "data.val_fraction=0")
    assert "val" in errors_of(other, [], "best", ["val"], [])[0]


def test_keys_that_change_the_held_out_samples_are_named():
    overrides = [
        "data.eval_batch_size=7",
        "seed=7",
        "data.val_fraction=0.2",
        "partition.alpha=1",
        "trainer.precision=64",
    ]
    assert held_out_keys(overrides) == ["seed", "data.val_fraction", "partition.alpha"]
    assert held_out_keys(["data.root=elsewhere"]) == []


def test_ones_own_module_needs_no_permission_in_ones_own_run_and_needs_one_in_a_copied_or_changed_run(
    tmp_path, monkeypatch
):
    (tmp_path / "my_untrusted.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    custom = ["model=custom", "model._target_=my_untrusted.Mine", "monitor.name=val_nll", "monitor.mode=min"]
    own = finished_run(tmp_path / "run", *custom, "+model.width=6")
    for name in ("best.ckpt", "model.ckpt"):  # the class does not save its arguments: the run does
        module = import_object("my_untrusted.Mine").load_from_checkpoint(own / name, weights_only=True)
        assert module.net[1].out_features == 6
    metrics = evaluate_run(own, [], "best", None, [])[1]
    assert set(metrics) == {"val_nll", "test_nll"}
    moved = own.rename(tmp_path / "moved")
    assert evaluate_run(moved, [], "best", None, [])[1] == metrics
    path = shutil.copytree(moved, tmp_path / "copy")
    (text,) = errors_of(path, [], "best", None, [])
    assert "model._target_=my_untrusted.Mine" in text
    assert "--allow" in text
    assert evaluate_run(path, [], "best", None, ["my_untrusted"])[1] == metrics
    assert evaluate_run(path, ["model._target_=my_untrusted.Mine"], "best", None, [])[1] == metrics
    for folder, allow in ((path, ["my_untrusted"]), (moved, [])):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["data"] = {"_target_": "os.system", "command": "touch harmed"}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        assert "os.system" in errors_of(folder, [], "best", None, allow)[0]
    assert not (tmp_path / "harmed").exists()
