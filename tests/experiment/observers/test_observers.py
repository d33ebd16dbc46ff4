import io
import json
import shutil
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from conftest import federation
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedlit.core.errors import ConfigError, require_instance
from fedlit.core.files import LocalFilesystem
from fedlit.data import Data, Population
from fedlit.experiment.observers import Observer, ObserverGroup, PartitionFigure, Run, RunFolder, TensorBoard, Terminal
from fedlit.experiment.observers.partition_figure import partition_figure
from fedlit.experiment.observers.terminal import metrics_line, result_line, summary_table
from fedlit.experiment.summary import SPREAD_SUFFIXES, RunTracker, evaluation_metrics
from fedlit.models import Classifier
from fedlit.runs.record import RoundRecord
from fedlit.runs.sweep_job import SweepJob
from fedlit.server.evaluation import spread_over_clients
from fedlit.server.monitor import Monitor
from fedlit.server.rounds import select
from fedlit.simulation.client_faults import Corrupt, Drop
from fedlit.simulation.faults import FailurePolicy, FaultPlan


def observed(tmp_path, *observers, fed=None):
    fed = fed or federation()
    client_data = fed.worker.data
    splits = client_data.splits
    data = Data("squares", client_data.train, splits["test"], (1, 8, 8), ("a", "b", "c"), splits["val"])
    run = Run(
        tmp_path,
        {"seed": 0, "monitor": {"name": "val/accuracy"}, "partition": {"alpha": 0.5}},
        fed,
        data,
        {"model": "simple_cnn", "algorithm": "fedavg"},
    )
    tracker = RunTracker(fed.monitor)
    for observer in observers:
        observer.start(run)
    records = []
    for record in fed.run():
        records.append(record)
        tracker.add(record)
        for observer in observers:
            observer.round(record)
    summary = tracker.summary(12.0, 0)
    for observer in observers:
        observer.end(summary)
        observer.close()
    return records, summary


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with every observer: its folder, records, summary, and the output without and with a terminal."""
    torch.set_num_threads(1)
    folder, (plain, line), (fancy, bar) = tmp_path_factory.mktemp("run"), terminal(False), terminal(True)
    records, summary = observed(folder, RunFolder(), PartitionFigure(), TensorBoard(), line, bar)
    return folder, records, summary, plain.getvalue(), fancy.getvalue()


def test_folder_has_the_files_of_a_run(run):
    folder, _, summary, *_ = run
    assert yaml.safe_load((folder / "config.yaml").read_text())["partition"] == {"alpha": 0.5}
    partition = json.loads((folder / "partition.json").read_text())
    assert sum(partition["sizes"]) == 120
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (folder / "partition.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*.tmp"))


def test_infinite_number_is_null_in_the_summary(tmp_path):
    class InfiniteSeconds(RunFolder):
        def end(self, summary):
            super().end({**summary, "seconds": float("inf")})

    observed(tmp_path, InfiniteSeconds(), fed=federation(rounds=1))
    assert json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)["seconds"] is None


def test_weights_are_of_the_last_and_of_the_best_round(run):
    folder, records, summary, *_ = run
    best = max(records, key=lambda record: (record.metrics["val/accuracy"], -record.number))
    assert summary["best"]["round"] == best.number
    for name, record in (("model.ckpt", records[-1]), ("best.ckpt", best)):
        module = Classifier.load_from_checkpoint(folder / name, weights_only=True)
        assert all(torch.equal(tensor, record.model.state_dict()[key]) for key, tensor in module.state_dict().items())
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, weights[key]) for key, tensor in records[-1].model.state_dict().items())


def test_tensorboard_has_scalars_the_partition_the_configuration_and_hparams(run):
    folder, records, *_ = run
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert all(len(events.Scalars(tag)) == len(records) for tag in events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("val/accuracy")] == [
        (r.number, pytest.approx(r.metrics["val/accuracy"])) for r in records
    ]
    assert events.Tags()["images"] == ["partition", "confusion"]
    assert "config/text_summary" in events.Tags()["tensors"]
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(
        events.summary_metadata
    )


def terminal(is_terminal):
    out = io.StringIO()
    return out, Terminal(Console(file=out, width=80, force_terminal=is_terminal))


def test_output_without_terminal_has_a_line_a_round_and_the_table(run):
    *_, text, _ = run
    lines = text.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("round")] == ["1/3", "2/3", "3/3"]
    assert "tensorboard --logdir" in lines[-1]
    assert max(map(len, lines[3:-1])) <= 80
    for part in ("simple_cnn", "squares", "fedavg", "val/accuracy", "12.0 s", "sent"):
        assert part in text


def test_terminal_has_a_bar_with_rounds_clients_and_accuracy(run):
    *_, text = run
    for part in ("3/3", "2 of 2 clients", "val/accuracy", "━"):
        assert part in text


def test_tensorboard_counts_failures_by_outcome(tmp_path):
    fed = federation()
    state = replace(fed.initial_state(), round=1)
    client = select(fed, state, lambda jobs, state: map(partial(fed.worker, state=state), jobs)).cohort[0]
    plans = (FaultPlan(Drop(), 1.0, clients=[client], rounds=[2]), FaultPlan(Corrupt("nan"), 1.0, rounds=[3]))
    observed(tmp_path, TensorBoard(), fed=fed.with_worker(replace(fed.worker, faults=FailurePolicy(plans=plans))))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("failures/planned")] == [(2, 1)]
    assert [(e.step, e.value) for e in events.Scalars("failures/not_finite")] == [(3, 2)]


def test_removed_folder_of_events_is_logged_once_and_counted(tmp_path, caplog):
    before = threading.active_count()
    fed = federation()
    run = Run(tmp_path, {}, fed, Data("squares", fed.worker.data.train, None, (1, 8, 8), ("a", "b", "c")), {})
    group = ObserverGroup([TensorBoard()])
    with group:
        group.notify(lambda observer: observer.start(run))
        shutil.rmtree(tmp_path / "tensorboard")
        for number in (1, 2):
            group.notify(
                lambda observer, number=number: observer.round(
                    RoundRecord(number=number, cohort=(), metrics={"val/loss": 1.0})
                )
            )
    assert threading.active_count() == before
    assert "FileNotFoundError" in group.failed["TensorBoard"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (12_700_000, "12.7 MB"), (3e12, "3.0 TB")]
)
def test_table_has_sizes_in_powers_of_1000(tmp_path, count, text):
    fed = federation()
    data = Data("squares", fed.worker.data.train, None, (1, 8, 8), ("a", "b", "c"))
    best, last = {"round": 1, "metrics": {}}, {"cohort": [0], "metrics": {}}
    summary = {"best": best, "last": last, "parameters": 1, "rounds": 1, "lost_rounds": 0, "seconds": 1.0}
    summary |= {"down_bytes": count, "up_bytes": 763_800}
    for ratio, smaller in ((1.0, ""), (78.64, ", 78.6 times smaller than float32")):
        table = summary_table(Run(tmp_path, {}, fed, data, {}), {**summary, "compression_ratio": ratio})
        assert f"{text} to clients, 763.8 kB back{smaller}" in list(table.columns[1].cells)


def test_table_names_the_users_own_classes(tmp_path):
    fed = federation()
    data = Data("squares", fed.worker.data.train, None, (1, 8, 8), ("a", "b", "c"))
    best, last = {"round": 1, "metrics": {}}, {"cohort": [0], "metrics": {}}
    summary = {"best": best, "last": last, "parameters": 1, "rounds": 1, "lost_rounds": 0, "seconds": 1.0}
    config, names = {"model": {"_target_": "my_model.MyModule"}}, {"model": "custom", "algorithm": "fedavg"}
    table = summary_table(Run(tmp_path, config, fed, data, names), {**summary, "down_bytes": 0, "up_bytes": 0})
    assert next(iter(table.columns[1].cells)) == "MyModule (1 parameters) on squares by fedavg"
    assert f"last round, {fed.monitor.name} was never finite" in [*table.columns[0].cells]


@pytest.mark.parametrize("clients", [3, 2000])
def test_figure_of_samples_without_classes_has_sizes(clients):
    population = Population.of(np.arange(4000) % clients, clients)
    figure = partition_figure(population.statistics(lambda index: None, 0), ())
    bars = figure.axes[0].patches
    assert len(bars) == min(clients, 100)
    assert bars[0].get_height() == population.sizes[0]
    assert "total variation" not in figure.axes[0].get_title()
    assert ("100 shown" in figure.axes[0].get_title()) == (clients > 100)


@pytest.mark.parametrize("classes", [20, 21, 3000])
def test_figure_of_many_classes_has_the_20_largest_and_the_rest(classes):
    labels = np.concatenate([np.arange(classes), np.repeat(np.arange(1, 20), np.arange(1, 20))])
    population = Population.of(np.arange(len(labels)) % 3, 3)
    names = [f"class number {number:,}, a name of many letters" for number in range(classes)]
    figure = partition_figure(population.statistics(lambda index: labels[index], classes), names)
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(-1, 3)
    assert len(heights) == min(classes, 21)
    assert heights.sum() == len(labels)
    assert heights[1:20].sum(1).tolist() == list(range(2, 21))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "class number 0, a nam..."
    assert (texts[-1] == f"{classes - 20:,} others") == (classes > 20)


def test_dollar_signs_in_names_of_classes_are_drawn_as_they_are(tmp_path):
    population = Population.of(np.arange(6) % 2, 2)
    figure = partition_figure(population.statistics(lambda index: np.arange(6)[index] % 2, 2), ["$x_{$", "b"])
    figure.savefig(tmp_path / "figure.png")  # a formula would be an error
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["$x_{$", "b"]


@pytest.mark.parametrize("clients", [150, 5000])
def test_figure_of_many_clients_has_evenly_spaced_ones_with_their_numbers(clients):
    sizes = np.arange(1, clients + 1)
    population = Population(range(sizes.sum()), np.concatenate([[0], np.cumsum(sizes)]))
    axes = partition_figure(population.statistics(lambda index: None, 0), ()).axes[0]
    heights = [int(bar.get_height()) for bar in axes.patches]
    assert (len(heights), heights[0], heights[-1]) == (100, 1, clients)
    assert np.ptp(np.diff(heights)) <= 1 + clients // 1000
    for position, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert heights[int(position)] == int(text.get_text().replace(",", "")) + 1


def test_name_of_the_best_checkpoint_is_synced(tmp_path, monkeypatch):
    steps = []
    rename, sync = LocalFilesystem.rename, LocalFilesystem.sync
    monkeypatch.setattr(LocalFilesystem, "rename", lambda disk, old, new: (steps.append(new), rename(disk, old, new)))
    monkeypatch.setattr(LocalFilesystem, "sync", lambda disk, path: (steps.append(path), sync(disk, path)))
    observed(tmp_path, RunFolder(), fed=federation(rounds=1))
    rename_step = steps.index(tmp_path / "best.ckpt")
    assert steps[rename_step - 1 : rename_step + 2] == [tmp_path / "best.ckpt.tmp", tmp_path / "best.ckpt", tmp_path]


def test_observer_that_fails_on_close_is_counted_and_closed_once(caplog):
    class Closing(Observer):
        def close(self):
            closed.append("closing")

    class Failing(Observer):
        def close(self):
            closed.append("failing")
            raise OSError("full")

    closed = []
    group = ObserverGroup([Closing(), Failing()])
    with group:
        group.close()
        assert group.failed == {"Failing": "OSError: full"}
    assert closed == ["closing", "failing"]
    assert "Failing failed" in caplog.text


class OnlyRounds(Observer):
    """A user's observer that overrides one method."""

    def __init__(self):
        self.numbers = []

    def round(self, record):
        self.numbers.append(record.number)


def test_observer_with_only_round_works_in_a_group(caplog):
    observer = OnlyRounds()
    group = ObserverGroup([observer])
    with group:
        group.notify(lambda each: each.start(None))
        group.notify(lambda each: each.round(RoundRecord(number=1, cohort=(), metrics={})))
        group.notify(lambda each: each.end({}))
    assert observer.numbers == [1]
    assert (group.failed, caplog.records) == ({}, [])


def test_object_that_is_no_observer_is_refused():
    class Duck:
        start = round = end = close = lambda *_: None

    assert isinstance(
        require_instance(OnlyRounds(), Observer, "_target_", "mine.OnlyRounds", "fedlit.Observer"), OnlyRounds
    )
    with pytest.raises(ConfigError) as error:
        require_instance(Duck(), Observer, "_target_", "mine.Duck", "fedlit.Observer")
    assert (error.value.key, error.value.value) == ("_target_", "mine.Duck")
    assert error.value.problem == "makes a Duck, which is not a fedlit.Observer"
    assert error.value.hint == "make its class a subclass of fedlit.Observer"


OWN_METRICS = {
    "train/loss": 0.9,
    "val_loss": 0.5,
    "test_loss": 0.6,
    "own/accuracy": 0.75,
    "own/accuracy_std": 0.1,
    "own/accuracy_lowest_tenth": 0.2,
    "own/accuracy_highest_tenth": 0.8,
    "own/accuracy_gini": 0.3,
    "time/round_s": 1.0,
}


def test_table_has_names_of_the_user_and_the_means_of_client_test_sets():
    assert metrics_line(OWN_METRICS) == "val_loss 0.5000, test_loss 0.6000, own/accuracy 0.7500"
    assert metrics_line({"train/loss": 1.0}) == "not evaluated"


def test_job_of_a_sweep_has_a_line_instead_of_the_table(tmp_path):
    out, observer = terminal(False)
    fed = federation(rounds=1)
    data = Data("squares", fed.worker.data.train, None, (1, 8, 8), ("a", "b", "c"))
    run = Run(
        tmp_path, {"monitor": {"name": "val/accuracy"}}, fed, data, {}, sweep_job=SweepJob(3, "job 3 of 8: seed=1")
    )
    metrics = {"val/loss": 0.5, "val/accuracy": 0.75, "test/accuracy": 0.5, "clients/trained": 2, "time/round_s": 0.1}
    observer.start(run)
    observer.round(RoundRecord(number=1, cohort=(0, 1), metrics=metrics))
    summary = {"best": {"round": 1, "metrics": metrics}, "rounds": 1, "lost_rounds": 0, "seconds": 12.0}
    observer.end(summary)
    assert out.getvalue().splitlines() == [
        "job 3  round 1/1  2 of 2 clients  val/accuracy 0.7500  0.1 s",
        "job 3  best round 1: val/accuracy 0.7500, test/accuracy 0.5000, 12.0 s",
    ]
    assert result_line(run, {**summary, "lost_rounds": 1}).endswith("test/accuracy 0.5000, 1 of 1 rounds lost, 12.0 s")
    line = result_line(replace(run, federation=replace(fed, monitor=Monitor(None))), summary)
    assert line == "last round 1: val/accuracy 0.7500, test/accuracy 0.5000, 12.0 s"
    diverged = {**summary, "best": {"round": 1, "metrics": {**metrics, "val/accuracy": float("nan")}}}
    assert result_line(run, diverged) == "last round 1: val/accuracy nan, test/accuracy 0.5000, 12.0 s"


def test_only_figures_of_spread_beside_their_mean_are_left_out():
    spread = {f"own/{name}": value for name, value in spread_over_clients("loss", [1.0, 2.0]).items()}
    assert evaluation_metrics(spread) == {"own/loss": 1.5}
    assert {name.removeprefix("own/loss") for name in spread} == {"", *SPREAD_SUFFIXES}
    assert evaluation_metrics({"own/noise_std": 1.0, "val/x_std": 2.0}) == {"own/noise_std": 1.0, "val/x_std": 2.0}


@pytest.mark.parametrize(("name", "tested"), [("val/accuracy", "test/accuracy"), ("val_loss", "test_loss")])
def test_terminal_without_validation_split_has_the_test_metric(tmp_path, name, tested):
    fed = federation(rounds=1)
    out, observer = terminal(False)
    data = Data("squares", fed.worker.data.train, None, (1, 8, 8), ("a", "b", "c"))
    run = Run(tmp_path, {"monitor": {"name": name}}, replace(fed, monitor=Monitor(None)), data, {})
    metrics = {"clients/trained": 2, "time/round_s": 0.1, tested: 0.25}
    observer.start(run)
    observer.round(RoundRecord(number=1, cohort=(0, 1), metrics=metrics))
    observer.close()
    assert f"round 1/1  2 of 2 clients  {tested} 0.2500  0.1 s" in out.getvalue()
