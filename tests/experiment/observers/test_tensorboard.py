"""What TensorBoard opens on: names of runs, hyper-parameters and metrics, read from the files of events."""

import json
import math

import pytest
from conftest import federation
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from fedlit.data import Data
from fedlit.experiment.observers import Run, TensorBoard
from fedlit.experiment.observers.tensorboard.events import MAX_NAME, run_name, varied_overrides
from fedlit.experiment.observers.tensorboard.hparams import hparam_values, hparams_table
from fedlit.runs.record import RoundRecord

CONFIG = {
    "seed": 1,
    "algorithm": {"_target_": "fedlit.algorithms.FedAvg", "proximal": 0.0},
    "monitor": {"name": "val_acc", "mode": "max"},
}
METRICS = {
    "train/loss": 0.9,
    "test_acc": 0.7,
    "val_loss": 0.5,
    "val_acc": 0.8,
    "own/accuracy": 0.75,
    "own/accuracy_std": 0.1,
    "time/round_s": 1.0,
}
SUMMARY = {
    "best": {"round": 1, "metrics": METRICS},
    "last": {"metrics": {**METRICS, "val_acc": 0.6}},
    "rounds": 2,
}


@pytest.fixture(scope="module")
def fed():
    return federation()


def make_run(folder, fed, **config):
    data = Data("squares", fed.worker.data.train, None, (1, 8, 8), ("a", "b", "c"))
    names = {"algorithm": "fedavg", "data": "digits", "hydra/launcher": "basic", "experiment": None}
    return Run(folder, {**CONFIG, **config}, fed, data, names)


def write_job(folder, overrides, swept):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"overrides": overrides, "swept": swept, "call": "x"}))


def read_events(folder):
    return EventAccumulator(str(folder)).Reload()


def test_run_of_a_sweep_is_named_by_its_values_and_resumed_under_one_name(tmp_path, fed):
    write_job(tmp_path, ["algorithm=fedavg", "seed=1", "schedule.rounds=2"], ["algorithm=fedavg", "seed=1"])
    for swept in (["algorithm=fedavg", "seed=1"], ["algorithm=fedavg", "seed=1"], ["seed=1"]):
        write_job(tmp_path, [], swept)
        board = TensorBoard()
        board.start(make_run(tmp_path, fed))
        board.round(RoundRecord(number=1, cohort=(), metrics={"val_acc": 0.5}))
        (file,) = tmp_path.glob("*/events*")
        assert file.parent.name == ",".join(swept)
    assert [event.step for event in read_events(tmp_path / "seed=1").Scalars("val_acc")] == [1]


def test_single_run_has_its_events_in_the_folder_tensorboard(tmp_path, fed):
    (tmp_path / "command.json").write_text(json.dumps({"overrides": ["seed=1"], "flags": []}))
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1.vm.2.0").touch()
    TensorBoard().start(make_run(tmp_path, fed))
    assert [file.parent.name for file in tmp_path.glob("*/events*")] == ["tensorboard"]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["algorithm=fedavg", "partition.alpha=0.1"], "algorithm=fedavg,partition.alpha=0.1"),
        (["model._target_=a/b c", "data.mean=[0.1,0.2]"], "model._target_=a_b_c,data.mean=_0.1,0.2"),
        (["../../x"], "x"),
        ([".."], "tensorboard"),
        ([], "tensorboard"),
        (["k=" + "v" * 300], "k=" + "v" * (MAX_NAME - 2)),
    ],
)
def test_name_of_a_run_is_the_name_of_one_folder(overrides, name):
    assert run_name(overrides) == name


def test_overrides_are_those_of_the_job_or_of_the_command_or_none(tmp_path):
    assert varied_overrides(tmp_path) == []
    (tmp_path / "command.json").write_text('{"overrides": ["seed=1", "+channel.x=2"], "flags": []}')
    assert varied_overrides(tmp_path) == ["seed=1", "channel.x=2"]
    write_job(tmp_path, ["seed=1", "a=2"], ["a=2"])
    assert varied_overrides(tmp_path) == ["a=2"]
    (tmp_path / "job.json").write_text('{"overrides": []}')
    assert varied_overrides(tmp_path) == []


def test_hparams_have_first_what_was_swept_and_the_best_and_the_monitored_metrics(tmp_path, fed):
    table = hparams_table(make_run(tmp_path, fed), ["algorithm.proximal=0.0", "seed=1"], SUMMARY)
    assert table.first == {
        "seed": 1,
        "algorithm": "fedavg",
        "algorithm.proximal": 0.0,
        "best/val_acc": 0.8,
        "best/test_acc": 0.7,
    }
    assert table.rest["algorithm._target_"] == "fedlit.algorithms.FedAvg"
    assert table.rest["data"] == "digits"
    assert table.rest["best/val_loss"] == 0.5
    assert not {"hydra/launcher", "experiment", "best/own/accuracy_std", "best/time/round_s"} & {*table.rest}
    assert table.metrics == ["val_acc", "test_acc", "val_loss", "own/accuracy", "train/loss"]


def test_hparams_end_with_the_costs_of_the_run(tmp_path, fed):
    costs = {"privacy/epsilon": 2.0, "comm/ratio": 4.0, "comm/up_bytes": 100, "privacy/clip": 1.0}
    summary = {**SUMMARY, "last": {"metrics": {**METRICS, **costs}}}
    table = hparams_table(make_run(tmp_path, fed), [], summary)
    assert table.metrics[-3:] == ["comm/up_bytes", "comm/ratio", "privacy/epsilon"]
    assert table.metrics[:-3] == hparams_table(make_run(tmp_path, fed), [], SUMMARY).metrics


def test_group_choice_at_a_package_is_a_swept_value(tmp_path, fed):
    run = make_run(tmp_path, fed)
    run.names["algorithm@algorithm.inner"] = "scaffold"  # type: ignore[index]
    assert (
        hparams_table(run, ["algorithm@algorithm.inner=scaffold"], SUMMARY).first["algorithm@algorithm.inner"]
        == "scaffold"
    )


def test_best_metrics_are_in_hparams_only(tmp_path, fed):
    board = TensorBoard()
    board.start(make_run(tmp_path, fed))
    for number in (1, 2):
        board.round(RoundRecord(number=number, cohort=(), metrics=METRICS))
    board.end(SUMMARY)
    events = read_events(tmp_path / "tensorboard")
    assert {*events.Tags()["scalars"]} == {*METRICS}
    experiment = metadata.parse_experiment_plugin_data(content(events, metadata.EXPERIMENT_TAG))
    differing = {info.name for info in experiment.hparam_infos if info.differs}
    assert differing == {"seed", "algorithm", "best/val_acc", "best/test_acc"}
    assert experiment.metric_infos[0].name.tag == "val_acc"
    start = metadata.parse_session_start_info_plugin_data(content(events, metadata.SESSION_START_INFO_TAG))
    assert start.hparams["algorithm"].string_value == "fedavg"
    assert start.hparams["best/val_acc"].number_value == 0.8
    assert metadata.SESSION_END_INFO_TAG in events.summary_metadata


def content(events, tag):
    return events.SummaryMetadata(tag).plugin_data.content


def test_nested_keys_are_dotted_in_hparams():
    config = {"a": {"b": 1, "c": [1, 2], "f": True}, "d": None, "e": math.inf}
    assert hparam_values(config) == {"a.b": 1, "a.c": "[1, 2]", "a.f": True, "d": "None", "e": "inf"}


def test_best_value_that_is_not_finite_is_a_text(tmp_path, fed):
    summary = {**SUMMARY, "best": {"round": 1, "metrics": {"val_acc": math.nan}}}
    assert hparams_table(make_run(tmp_path, fed), [], summary).first["best/val_acc"] == "nan"
