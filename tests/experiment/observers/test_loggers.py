"""Loggers of Lightning, fed from the records of rounds."""

import csv
from dataclasses import dataclass
from typing import ClassVar

import pytest
from configured import compose_plain
from conftest import federation
from lightning.pytorch.loggers import Logger
from test_tensorboard import METRICS, SUMMARY, make_run

from fedlit.core.errors import ConfigError, ErrorCollector
from fedlit.core.messages import ClientFailure
from fedlit.experiment.config import parts
from fedlit.experiment.config.settings import make_settings
from fedlit.experiment.observers.loggers import CSV, MLflow, WandB, choices
from fedlit.experiment.observers.loggers.choices import LoggerChoice
from fedlit.experiment.observers.loggers.logger_observer import LoggerObserver
from fedlit.experiment.observers.observer import ObserverGroup
from fedlit.runs.record import RoundRecord

FAILURE = ClientFailure(3, "planned", "as planned")


class Memory(Logger):
    """Keeps every call; fails in the round `fails_at`."""

    made: ClassVar = []

    def __init__(self, save_dir="default", color="red", fails_at=None):
        super().__init__()
        self.directory, self.color, self.fails_at, self.calls = save_dir, color, fails_at, []
        Memory.made.append(self)

    @property
    def name(self):
        return "memory"

    @property
    def version(self):
        return 0

    def log_metrics(self, metrics, step=None):
        if step == self.fails_at:
            raise RuntimeError("no connection")
        self.calls.append((step, metrics))

    def log_hyperparams(self, params, *args, **kwargs):
        self.calls.append(("config", params))

    def finalize(self, status):
        self.calls.append(("end", status))


@dataclass(frozen=True)
class InMemory(LoggerChoice):
    fails_at: int | None = None

    def make(self, folder):
        return Memory(folder, fails_at=self.fails_at)


@pytest.fixture(scope="module")
def fed():
    return federation()


@pytest.fixture(autouse=True)
def _forget():
    Memory.made.clear()


def records(count):
    return [
        RoundRecord(number=i, cohort=(1,), metrics={**METRICS, "val_acc": i / 10}, failures=(FAILURE,) * (i == 2))
        for i in range(1, count + 1)
    ]


def observe(run, *observers, rounds=3, finished=0):
    group, every = ObserverGroup(observers), records(rounds)
    run.finished_rounds = tuple(every[:finished])
    group.notify(lambda observer: observer.start(run))
    for record in every[finished:]:
        group.notify(lambda observer, record=record: observer.round(record))
    group.notify(lambda observer: observer.end(SUMMARY))
    group.close()
    return group


def test_a_logger_has_the_configuration_each_round_and_the_best_round(tmp_path, fed):
    observe(make_run(tmp_path, fed), LoggerObserver(InMemory(), "loggers.mine"))
    (logger,) = Memory.made
    (first, config), *rounds, (step, best), last = logger.calls
    assert (first, config["algorithm._target_"], config["seed"]) == ("config", "fedlit.algorithms.FedAvg", 1)
    assert [step for step, _ in rounds] == [1, 2, 3]
    assert [values["val_acc"] for _, values in rounds] == [0.1, 0.2, 0.3]
    assert [values.get("failures/planned") for _, values in rounds] == [None, 1, None]
    assert (step, best["best/val_acc"], best["best/round"]) == (2, 0.8, 1)
    assert "best/own/accuracy_std" not in best
    assert last == ("end", "success")


def test_a_run_that_stops_before_its_end_is_aborted(tmp_path, fed):
    observer = LoggerObserver(InMemory(), "loggers.mine")
    observer.start(make_run(tmp_path, fed))
    observer.close()
    assert Memory.made[0].calls[-1] == ("end", "aborted")


def test_one_that_fails_is_counted_and_stops_nothing(tmp_path, fed, caplog):
    group = observe(
        make_run(tmp_path, fed),
        LoggerObserver(InMemory(fails_at=2), "loggers.bad"),
        LoggerObserver(InMemory(), "loggers.good"),
    )
    assert group.failed == {"loggers.bad": "RuntimeError: no connection"}
    assert "loggers.bad failed and is no longer called; the run continues" in caplog.text
    bad, good = Memory.made
    assert [step for step, _ in good.calls] == ["config", 1, 2, 3, 2, "end"]
    assert [step for step, _ in bad.calls] == ["config", 1]


@pytest.mark.parametrize("finished", [0, 2])
def test_csv_has_a_row_for_each_round_also_after_resume(tmp_path, fed, finished):
    run = make_run(tmp_path, fed)
    if finished:
        observe(run, LoggerObserver(CSV(), "loggers.csv"), rounds=2)
    observe(run, LoggerObserver(CSV(), "loggers.csv"), finished=finished)
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val_acc"]]
    assert [(row["step"], float(row["val_acc"])) for row in rows] == [("1", 0.1), ("2", 0.2), ("3", 0.3)]
    assert [row["failures/planned"] for row in rows] == ["", "1", ""]
    assert "fedlit.algorithms.FedAvg" in (tmp_path / "csv" / "hparams.yaml").read_text()


def make_loggers(loggers):
    config, collector = {**compose_plain(), "loggers": loggers}, ErrorCollector()
    made = parts.make_components(config, make_settings(config, collector), collector)
    return {key: one for key, one in made.observers.items() if key.startswith("loggers.")}, collector.errors()


@pytest.mark.slow
def test_any_logger_of_lightning_by_configuration(tmp_path, fed):
    nodes = {
        "csv": {"_target_": "fedlit.experiment.observers.loggers.CSV"},
        "mine": {"_target_": f"{__name__}.Memory", "color": "blue"},
        "elsewhere": {"_target_": f"{__name__}.Memory", "save_dir": "there"},
        "none": None,
    }
    loggers, errors = make_loggers(nodes)
    assert errors == []
    assert [*loggers] == ["loggers.csv", "loggers.mine", "loggers.elsewhere"]
    assert Memory.made == []  # before the run's folder is made
    observe(make_run(tmp_path, fed), *loggers.values())
    assert [(one.directory, one.color) for one in Memory.made] == [(tmp_path / "mine", "blue"), ("there", "red")]
    assert (tmp_path / "csv" / "metrics.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node", "key", "problem"),
    [
        ({"_target_": "collections.OrderedDict"}, "loggers.x._target_", "is not a logger of Lightning"),
        ({"_target_": f"{__name__}.Memory", "colour": 1}, "loggers.x.colour", "is not an argument"),
        ({"_target_": "fedlit.experiment.observers.loggers.CSV", "a": 1}, "loggers.x.a", "is not an argument"),
    ],
)
def test_wrong_loggers_are_errors_before_round_1(node, key, problem):
    _, (error,) = make_loggers({"x": node})
    assert error.key == key
    assert problem in error.problem


@pytest.mark.parametrize(("choice", "package"), [(MLflow, "mlflow"), (WandB, "wandb")])
def test_missing_package_is_an_error_with_its_extra(choice, package, monkeypatch):
    monkeypatch.setattr(choices, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}; pip install 'fedlit\[loggers\]'"):
        choice()


@pytest.mark.slow
def test_several_choices_of_loggers_can_be_given():
    config = compose_plain("loggers=csv")
    assert [*config["loggers"]] == ["csv"]
    assert [*compose_plain("loggers=[csv,wandb]")["loggers"]] == ["csv", "wandb"]
    assert compose_plain()["loggers"] == {}


@pytest.mark.slow
def test_mlflow_has_the_history_of_each_metric(tmp_path, fed):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    assert observe(make_run(tmp_path, fed), LoggerObserver(MLflow(), "loggers.mlflow")).failed == {}
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("fedlit").experiment_id])
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", "1")
    history = client.get_metric_history(run.info.run_id, "val_acc")
    assert [(one.step, one.value) for one in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]


@pytest.mark.slow
def test_wandb_writes_into_the_runs_folder_without_a_network(tmp_path, fed, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("first", "second"):  # two runs of a sweep in one process are two runs
        (tmp_path / name).mkdir()
        assert observe(make_run(tmp_path / name, fed), LoggerObserver(WandB(), "loggers.wandb")).failed == {}
        assert wandb.run is None
        (file,) = (tmp_path / name).glob("wandb/offline-run-*/run-*.wandb")
        assert file.stat().st_size > 1000
