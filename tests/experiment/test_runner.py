"""The log of a run, its observers and its frames."""

import json
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
from conftest import composed

from fedlit.core.errors import ConfigErrors
from fedlit.core.messages import ClientFailure
from fedlit.experiment import runner
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.reporter import log_round
from fedlit.experiment.run import Run
from fedlit.experiment.runner import run_experiment
from fedlit.experiment.signals import Interrupted
from fedlit.experiment.summary import RunTracker
from fedlit.runs.record import RoundRecord
from fedlit.server.monitor import Monitor

METRICS = {"clients/trained": 2, "time/round_s": 0.1}
QUICK = [
    *("data=synthetic", "partition=natural", "data.clients=5", "model=logistic", "observers=none"),
    *("schedule.rounds=2", "schedule.local_steps=1"),
]


def record_of(metrics, failures=()):
    return RoundRecord(number=1, cohort=(0, 1, 2, 3), metrics={**METRICS, **metrics}, failures=failures)


def test_client_sampled_beyond_need_is_no_warning(caplog):
    failures = (
        ClientFailure(1, "surplus", "came after the first 2"),
        ClientFailure(2, "deadline", "would have taken 9 s"),
    )
    log_round(record_of({}, failures), 5)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["round 1: client 2 left out, deadline: would have taken 9 s"]


@pytest.mark.parametrize(
    ("metrics", "figures"),
    [
        (
            {"train/loss": 1.5, "train/accuracy": 0.1, "val/loss": 2.0, "test/accuracy": 0.5, "comm/up_bytes": 8},
            "train/loss 1.5000  val/loss 2.0000  test/accuracy 0.5000",
        ),
        (
            {"train_loss": 1.5, "val_loss": 2.0, "test_loss": 3.0},
            "train_loss 1.5000  val_loss 2.0000  test_loss 3.0000",
        ),
        ({"own/accuracy": 0.5, "own/accuracy_std": 0.1, "own/accuracy_gini": 0.2}, "own/accuracy 0.5000"),
    ],
)
def test_line_of_a_round_has_the_metrics_of_every_split(caplog, metrics, figures):
    caplog.set_level(logging.INFO, "fedlit")
    log_round(record_of(metrics), 5)
    assert [record.getMessage() for record in caplog.records] == [f"round 1/5  2 of 4 clients  {figures}  0.1 s"]


OBSERVERS = """
from fedlit import Observer

numbers = []

class OnlyRounds(Observer):
    def round(self, record):
        numbers.append(record.number)

class NoObserver:
    def start(self, run): ...
    def round(self, record): ...
    def end(self, summary): ...
    def close(self): ...
"""


@pytest.fixture
def my_observers(tmp_path, monkeypatch):
    (tmp_path / "my_observers.py").write_text(OBSERVERS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_observers", None)


@pytest.mark.slow  # a whole run
def test_users_observer_with_only_round_works_in_a_run(my_observers, tmp_path):
    config = to_plain(composed(*QUICK, "+observers.mine={_target_:my_observers.OnlyRounds}"))
    run_experiment(config, tmp_path / "run", {}, time.time())
    assert sys.modules["my_observers"].numbers == [1, 2]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["observers_failed"] == {}


@pytest.mark.slow  # a whole build of a configuration
def test_object_that_is_no_observer_is_refused_under_its_key(my_observers, tmp_path):
    config = to_plain(composed(*QUICK, "+observers.mine={_target_:my_observers.NoObserver}"))
    with pytest.raises(ConfigErrors) as error:
        run_experiment(config, tmp_path / "run", {}, time.time())
    assert [str(each) for each in error.value.errors] == [
        "observers.mine._target_=my_observers.NoObserver: makes a NoObserver, which is not a fedlit.Observer; "
        "make its class a subclass of fedlit.Observer"
    ]


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize("traceback", ["false", "true"])
def test_the_text_of_a_clients_error_is_in_no_file_of_a_run_with_privacy(tmp_path, caplog, traceback):
    """`traceback=true` logs it. A digest of rounds.jsonl and the resumed run do not depend on it."""
    faults = ["faults=raise", "faults.plans.raise.probability=1", "faults.plans.raise.clients=[0]"]
    private = ["privacy=local", "privacy.noise_multiplier=1", "algorithm.weights=uniform", "executor=inline"]
    config = to_plain(composed(*QUICK, *faults, *private, "schedule.clients_per_round=5", f"traceback={traceback}"))
    with caplog.at_level(logging.WARNING, "fedlit"):
        run_experiment(config, tmp_path / "run", {}, time.time())
    rounds = (tmp_path / "run" / "rounds.jsonl").read_text()
    assert '"reason": "RuntimeError (client_faults.py:' in rounds
    files = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(b"raised as planned" in content for content in files)
    assert ("RuntimeError: raised as planned" in caplog.text) == (traceback == "true")


@pytest.mark.slow  # a whole run
def test_run_experiment_calls_the_federations_loop_itself(tmp_path, monkeypatch):
    from fedlit.executors.inline import Inline

    frames, open_inline = [], Inline.open

    def spy(*arguments):
        frame = sys._getframe(1)
        while frame is not None and not frame.f_globals["__name__"].startswith("fedlit.experiment"):
            frame = frame.f_back
        frames.append(frame and frame.f_code)
        return open_inline(*arguments)

    monkeypatch.setattr(Inline, "open", spy)
    run_experiment(to_plain(composed(*QUICK, "executor=inline")), tmp_path / "run", {}, time.time())
    assert frames == [
        run_experiment.__code__
    ]  # the innermost frame of fedlit.experiment around the federation's generator


class Reporter:
    """Notes what it is asked to do."""

    def __init__(self):
        self.calls, self.on_report = [], lambda record: None
        self.tracker = RunTracker(Monitor())

    def open_folder(self, overrides, flags):
        self.calls.append("open_folder")

    def start(self):
        self.calls.append("start")

    def report(self, record):
        self.calls.append(record)
        self.on_report(record)

    def finish(self, seconds):
        self.calls.append("finish")
        return 0.5

    def __enter__(self): ...

    def __exit__(self, *_):
        self.calls.append("close")


def send_suppressed_signal():
    with suppress(BaseException):  # as some code of a model does
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def reporter(monkeypatch, tmp_path):
    """The reporter of a run of three rounds without a federation."""
    reporter = Reporter()
    run = Run(tmp_path, {}, SimpleNamespace(run=lambda checkpoint: iter([1, 2, 3])), SimpleNamespace(), {})  # type: ignore[arg-type]
    monkeypatch.setattr(runner, "RoundReporter", lambda *_: reporter)
    monkeypatch.setattr(runner, "_prepare", lambda *_: (run, []))
    for name in ("fingerprint", "client_state_nbytes", "estimate_client_state", "client_state_line"):
        monkeypatch.setattr(runner, name, lambda *_: {})
    return reporter


def test_stop_signal_that_code_suppresses_stops_the_run_after_the_round(reporter, tmp_path):
    reporter.on_report = lambda record: send_suppressed_signal()
    with pytest.raises(Interrupted):
        run_experiment({"check": False, "resume": None}, tmp_path, {}, 0.0)
    assert reporter.calls == ["open_folder", "start", 1, "close"]


def test_stop_signal_before_round_1_leaves_no_file_of_the_run(reporter, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "client_state_line", lambda *_: send_suppressed_signal())
    with pytest.raises(Interrupted):
        run_experiment({"check": False, "resume": None}, tmp_path, {}, 0.0)
    assert reporter.calls == []
