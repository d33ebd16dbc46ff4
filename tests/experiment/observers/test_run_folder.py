"""Files of a run's folder when a run is resumed."""

import json

import pytest
import torch
import yaml
from conftest import federation

from fedlit.data import Data
from fedlit.experiment.observers import Run, RunFolder
from fedlit.models import Classifier
from fedlit.runs.record import RoundRecord


@pytest.fixture(scope="module")
def fed():
    return federation()


@pytest.fixture(scope="module")
def model(fed):
    return fed.algorithm.model(fed.initial_state().shared)


def make_run(folder, fed, finished=()):
    data = Data("squares", fed.worker.data.train, None, (1, 8, 8), ("a", "b", "c"))
    return Run(folder, {"seed": 0, "resume": str(folder)}, fed, data, {}, finished_rounds=tuple(finished))


def record(number, value, model=None):
    """The record of a round with this value of the monitored metric; the model's first tensor is the number."""
    if model is not None:
        name, tensor = next(iter(model.parameters.items()))
        model = type(model)({**model.parameters, name: torch.full_like(tensor, number)}, model.buffers)
    metrics = {"val/accuracy": value, "comm/up_bytes": 1, "comm/down_bytes": 1}
    return RoundRecord(number=number, cohort=(0,), metrics=metrics, model=model)


def round_of(path):
    """The number of the round whose model is in a checkpoint."""
    module = Classifier.load_from_checkpoint(path, weights_only=True)
    return int(next(iter(module.parameters())).flatten()[0])


def test_summary_of_a_finished_run_is_removed_when_the_run_is_resumed(tmp_path, fed):
    (tmp_path / "summary.json").write_text("{}")
    RunFolder().start(make_run(tmp_path, fed))
    assert not (tmp_path / "summary.json").exists()
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 0, "resume": None}
    assert json.loads((tmp_path / "partition.json").read_text())["clients"] > 0


def test_best_checkpoint_that_a_crash_prevented_is_written_on_resume(tmp_path, fed, model):
    """The process was killed between the round's checkpoint and best.ckpt."""
    RunFolder().start(make_run(tmp_path, fed, [record(1, 0.5), record(2, 0.7, model)]))
    assert round_of(tmp_path / "best.ckpt") == 2


def test_best_checkpoint_stays_if_the_last_finished_round_was_not_the_best(tmp_path, fed, model):
    first = RunFolder()
    first.start(make_run(tmp_path, fed))
    first.round(record(1, 0.7, model))
    again = RunFolder()
    again.start(make_run(tmp_path, fed, [record(1, 0.7), record(2, 0.5, model)]))
    assert round_of(tmp_path / "best.ckpt") == 1
    again.round(record(3, 0.6, model))
    assert round_of(tmp_path / "best.ckpt") == 1
    again.round(record(4, 0.8, model))
    assert round_of(tmp_path / "best.ckpt") == 4
