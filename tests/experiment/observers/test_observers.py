import io
import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import federation
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedlit.core.files import LocalFilesystem
from fedlit.data import Data, Population
from fedlit.experiment.observers import ObserverGroup, PartitionFigure, Run, RunFolder, TensorBoard, Terminal
from fedlit.experiment.observers.partition_figure import partition_figure
from fedlit.experiment.observers.tensorboard import hparam_values
from fedlit.experiment.observers.terminal import size
from fedlit.experiment.summary import RunTracker
from fedlit.models import Classifier
from fedlit.runs.record import RoundRecord
from fedlit.simulation.faults import Corrupt, Drop, FailurePolicy, FaultPlan


def watched(tmp_path, *observers, fed=None):
    fed = fed or federation()
    held = fed.worker.data
    data = Data("squares", held.train, held.splits["test"], (1, 8, 8), ("a", "b", "c"), held.splits["val"])
    run = Run(
        tmp_path,
        {"seed": 0, "monitor": {"name": "val/accuracy"}, "partition": {"alpha": 0.5}},
        fed,
        data,
        {"model": "simple_cnn", "algorithm": "fedavg"},
    )
    standing = RunTracker(fed.monitor)
    for observer in observers:
        observer.start(run)
    records = []
    for record in fed.run():
        records.append(record)
        standing.add(record)
        for observer in observers:
            observer.round(record)
    summary = standing.summary(12.0, 0)
    for observer in observers:
        observer.end(summary)
        observer.close()
    return records, summary


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that all watch: its folder, records, summary, and what was said where there is no terminal and where is one."""
    torch.set_num_threads(1)
    folder, (plain, line), (fancy, bar) = tmp_path_factory.mktemp("run"), terminal(False), terminal(True)
    records, summary = watched(folder, RunFolder(), PartitionFigure(), TensorBoard(), line, bar)
    return folder, records, summary, plain.getvalue(), fancy.getvalue()


def test_the_folder_holds_what_a_run_leaves(run):
    folder, _, summary, *_ = run
    assert yaml.safe_load((folder / "config.yaml").read_text())["partition"] == {"alpha": 0.5}
    partition = json.loads((folder / "partition.json").read_text())
    assert sum(partition["sizes"]) == 120
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert (folder / "partition.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*.tmp"))


def test_what_is_no_number_is_null_in_the_files(tmp_path):
    class Odd(RunFolder):
        def end(self, summary):
            super().end({**summary, "seconds": float("inf")})

    watched(tmp_path, Odd(), fed=federation(rounds=1))
    assert json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)["seconds"] is None


def test_checkpoints_are_those_of_the_last_and_of_the_best_round(run):
    folder, records, summary, *_ = run
    best = max(records, key=lambda record: (record.metrics["val/accuracy"], -record.number))
    assert summary["best"]["round"] == best.number
    for name, record in (("model.ckpt", records[-1]), ("best.ckpt", best)):
        module = Classifier.load_from_checkpoint(folder / name, weights_only=True)
        assert all(torch.equal(tensor, record.model.state_dict()[key]) for key, tensor in module.state_dict().items())
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, weights[key]) for key, tensor in records[-1].model.state_dict().items())


def test_tensorboard_has_scalars_over_rounds_the_partition_the_configuration_and_hparams(run):
    folder, records, *_ = run
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/accuracy")] == [
        (r.number, pytest.approx(r.metrics["val/accuracy"])) for r in records
    ]
    assert events.Tags()["images"] == ["partition"]
    assert "config/text_summary" in events.Tags()["tensors"]
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(
        events.summary_metadata
    )
    assert events.Scalars("best/val/accuracy")[0].value == pytest.approx(
        max(r.metrics["val/accuracy"] for r in records)
    )


def terminal(is_terminal):
    out = io.StringIO()
    return out, Terminal(Console(file=out, width=80, force_terminal=is_terminal))


def test_what_is_no_terminal_gets_a_line_a_round_and_the_last_table(run):
    *_, text, _ = run
    lines = text.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("round")] == ["1/3", "2/3", "3/3"]
    assert "tensorboard --logdir" in lines[-1]
    assert max(map(len, lines[3:-1])) <= 80
    for part in ("simple_cnn", "squares", "fedavg", "val/accuracy", "12.0 s", "sent"):
        assert part in text


def test_a_terminal_gets_a_bar_with_rounds_clients_and_accuracy(run):
    *_, text = run
    for part in ("3/3", "2 of 2 clients", "val/accuracy", "━"):
        assert part in text


def test_tensorboard_counts_what_clients_failed_of(tmp_path):
    fed = federation()
    chosen = fed.call(1, fed.algorithm.init(fed.initial)).cohort[0]
    plans = (FaultPlan(Drop(), 1.0, clients=[chosen], rounds=[2]), FaultPlan(Corrupt("nan"), 1.0, rounds=[3]))
    watched(tmp_path, TensorBoard(), fed=replace(fed, worker=replace(fed.worker, faults=FailurePolicy(plans=plans))))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("failures/planned")] == [(2, 1)]
    assert [(e.step, e.value) for e in events.Scalars("failures/not_finite")] == [(3, 2)]


def test_a_folder_of_events_that_is_gone_is_warned_of_once_and_counted(tmp_path, caplog):
    before = threading.active_count()
    fed = federation()
    held = fed.worker.data
    run = Run(tmp_path, {}, fed, Data("squares", held.train, None, (1, 8, 8), ("a", "b", "c")), {})
    watchers = ObserverGroup([TensorBoard()])
    with watchers:
        watchers.notify(lambda observer: observer.start(run))
        shutil.rmtree(tmp_path / "tensorboard")
        for number in (1, 2):
            watchers.notify(
                lambda observer, number=number: observer.round(
                    RoundRecord(number, (), {"val/loss": 1.0}, (), None, "", None)
                )
            )
    assert threading.active_count() == before
    assert "FileNotFoundError" in watchers.failed["TensorBoard"]
    assert len(caplog.records) == 1


def test_nested_keys_are_flat_in_hparams():
    assert hparam_values({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": float("inf")}) == {
        "a.b": 1,
        "a.c": "[1, 2]",
        "d": "None",
        "e": "inf",
    }


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 B"), (1000, "1.0 kB"), (12_700_000, "12.7 MB"), (3e12, "3.0 TB")]
)
def test_bytes_for_people(count, text):
    assert size(count) == text


@pytest.mark.parametrize("clients", [3, 2000])
def test_the_picture_of_samples_without_classes_shows_sizes(clients):
    population = Population.of(np.arange(4000) % clients, clients)
    figure = partition_figure(population.statistics(lambda index: None, 0), ())
    bars = figure.axes[0].patches
    assert len(bars) == min(clients, 100)
    assert bars[0].get_height() == population.sizes[0]
    assert "total variation" not in figure.axes[0].get_title()
    assert ("100 of them shown" in figure.axes[0].get_title()) == (clients > 100)


@pytest.mark.parametrize("clients", [150, 5000])
def test_the_picture_of_many_clients_shows_some_of_all_with_their_numbers(clients):
    sizes = np.arange(1, clients + 1)
    population = Population(range(sizes.sum()), np.concatenate([[0], np.cumsum(sizes)]))
    axes = partition_figure(population.statistics(lambda index: None, 0), ()).axes[0]
    heights = [int(bar.get_height()) for bar in axes.patches]
    assert (len(heights), heights[0], heights[-1]) == (100, 1, clients)
    assert np.ptp(np.diff(heights)) <= 1 + clients // 1000
    for place, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert heights[int(place)] == int(text.get_text().replace(",", "")) + 1


def test_the_name_of_the_best_checkpoint_is_synced(tmp_path, monkeypatch):
    steps = []
    rename, sync = LocalFilesystem.rename, LocalFilesystem.sync
    monkeypatch.setattr(LocalFilesystem, "rename", lambda disk, old, new: (steps.append(new), rename(disk, old, new)))
    monkeypatch.setattr(LocalFilesystem, "sync", lambda disk, path: (steps.append(path), sync(disk, path)))
    watched(tmp_path, RunFolder(), fed=federation(rounds=1))
    named = steps.index(tmp_path / "best.ckpt")
    assert steps[named - 1 : named + 2] == [tmp_path / "best.tmp", tmp_path / "best.ckpt", tmp_path]


def test_who_fails_at_the_close_is_counted_and_each_is_told_of_it_once(caplog):
    class Closing(RunFolder):
        def close(self):
            told.append("closing")

    class Failing(RunFolder):
        def close(self):
            told.append("failing")
            raise OSError("full")

    told = []
    watchers = ObserverGroup([Closing(), Failing()])
    with watchers:
        watchers.close()
        assert watchers.failed == {"Failing": "OSError: full"}
    assert told == ["closing", "failing"]
    assert "Failing failed" in caplog.text
