"""What TensorBoard opens on: names of runs, hyper-parameters and metrics, read from the files of events."""

import json
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import federation
from lightning.pytorch import LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import metadata

from fedlit.cli import train
from fedlit.data import Data
from fedlit.experiment.observers import Run, TensorBoard
from fedlit.experiment.observers.tensorboard.confusion import confusion_matrix
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
    return EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()


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


def layout_of(folder):
    """The layout of the custom scalars as TensorBoard's own reader finds it."""
    (event,) = read_events(folder).Tensors(custom_scalar.CONFIG_SUMMARY_TAG)
    return layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])


def test_custom_scalars_put_together_what_belongs_together(tmp_path, fed):
    run = make_run(tmp_path, fed)
    observer = TensorBoard()
    observer.start(run)
    metrics = {**METRICS, "comm/up_bytes": 1.0, "privacy/epsilon": 2.0, "own/accuracy_lowest_tenth": 0.1}
    observer.round(RoundRecord(number=1, cohort=(0,), metrics=metrics))
    layout = layout_of(tmp_path / "tensorboard")
    charts = {part.title: {chart.title: chart for chart in part.chart} for part in layout.category}
    assert [*charts] == ["quality", "bytes", "drift", "privacy", "failures", "time"]
    (series,) = charts["quality"]["accuracy, tenths of clients"].margin.series
    ends = ("own/accuracy_lowest_tenth", "own/accuracy_highest_tenth")
    assert (series.value, series.lower, series.upper) == ("own/accuracy", *ends)
    tags = read_events(tmp_path / "tensorboard").Tags()["scalars"]

    def tags_of(part, chart):
        (pattern,) = charts[part][chart].multiline.tag
        return sorted(tag for tag in tags if re.search(pattern, tag))

    assert tags_of("quality", "acc") == ["test_acc", "val_acc"]
    assert tags_of("quality", "loss") == ["train/loss", "val_loss"]
    assert tags_of("quality", "accuracy, unevenness over clients") == ["own/accuracy_std"]
    assert tags_of("bytes", "bytes of a round") == ["comm/up_bytes"]
    assert tags_of("privacy", "epsilon") == ["privacy/epsilon"]
    assert tags_of("time", "seconds of a round") == ["time/round_s"]


def test_histograms_have_the_figures_of_single_clients(tmp_path, fed):
    observer = TensorBoard()
    observer.start(make_run(tmp_path, fed))
    clients = {"update_norm": {3: 1.0, 5: 2.0, 7: 4.0}, "own/accuracy": {3: 0.5, 5: math.nan}, "update_cosine": {}}
    observer.round(RoundRecord(number=4, cohort=(3, 5, 7), metrics=METRICS, clients=clients))
    events = read_events(tmp_path / "tensorboard")
    assert sorted(events.Tags()["histograms"]) == ["clients/own/accuracy", "clients/update_norm"]
    (norms,) = events.Histograms("clients/update_norm")
    value = norms.histogram_value
    assert (norms.step, value.num, value.min, value.max, value.sum) == (4, 3, 1.0, 4.0, 7.0)
    assert sum(value.bucket) == 3
    (accuracies,) = events.Histograms("clients/own/accuracy")
    assert (accuracies.histogram_value.num, accuracies.histogram_value.min) == (1, 0.5)


class Linear(LightningModule):
    """A module that outputs the first numbers of its input."""

    def forward(self, x):
        return x[:, : self.width]


def run_with_model(folder, fed, x, y, classes, width):
    module, batches = Linear(), [(torch.tensor(x), torch.tensor(y))]
    module.width = width
    worker = SimpleNamespace(
        replica=SimpleNamespace(module=module, load=lambda model: None),
        data=SimpleNamespace(datamodule=None, split_batches=lambda split: batches),
    )
    federation = SimpleNamespace(worker=worker, registry=SimpleNamespace(splits=("val", "test")))
    data = Data("squares", fed.worker.data.train, None, (1, 8, 8), classes)
    return Run(folder, CONFIG, federation, data, {})


def test_confusion_matrix_counts_labels_and_predictions(tmp_path, fed):
    x = [[0.9, 0.1, 0.0], [0.2, 0.3, 0.1], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    run = run_with_model(tmp_path, fed, x, [0, 1, 1, 2], ("a", "b", "c"), 3)
    assert confusion_matrix(run, None).tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert run.federation.worker.replica.module.training


@pytest.mark.parametrize(("classes", "width"), [((), 3), (("a", "b", "c"), 2), (("only",), 1)])
def test_there_is_no_confusion_matrix_without_a_number_for_each_class(tmp_path, fed, classes, width):
    run = run_with_model(tmp_path, fed, [[1.0, 2.0, 3.0]], [0], classes, width)
    assert confusion_matrix(run, None) is None


@pytest.mark.slow
def test_a_run_has_the_confusion_matrix_of_its_best_round_and_histograms(tmp_path, monkeypatch):
    overrides = ["schedule.rounds=2", "data.client_test_fraction=0.2", "model=logistic", "observers.partition=null"]
    monkeypatch.setattr(sys, "argv", ["fedlit", *overrides, f"hydra.run.dir={tmp_path}"])
    train.main()
    events = read_events(tmp_path / "tensorboard")
    assert sorted(events.Tags()["histograms"]) == [
        *(f"clients/{name}" for name in ("own/accuracy", "own/loss", "update_cosine", "update_norm"))
    ]
    best = json.loads((tmp_path / "summary.json").read_text())["best"]["round"]
    assert [image.step for image in events.Images("confusion")] == [best]
    cosines = events.Histograms("clients/update_cosine")
    assert [one.step for one in cosines] == [1, 2]
    assert all(-1 <= one.histogram_value.min <= one.histogram_value.max <= 1 for one in cosines)
    mean = cosines[0].histogram_value.sum / cosines[0].histogram_value.num
    assert events.Scalars("drift/mean_cosine")[0].value == pytest.approx(mean, abs=1e-6)
