"""Error reports of one run, and the frames above it."""

import ast
import os
import runpy
import signal
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from hydra.types import RunMode
from omegaconf import OmegaConf

import fedlit
from fedlit.cli import hydra_job, train
from fedlit.cli.command_line import PRIMARY
from fedlit.cli.hydra_job import HydraJob, report_errors
from fedlit.cli.sweep import jobs
from fedlit.cli.sweep.plan import Sweep
from fedlit.core.errors import LostRounds, LostWorkers
from fedlit.experiment.signals import Interrupted, StopRequest
from fedlit.runs.folder import read_failure, read_job
from fedlit.runs.layout import FAILURE
from fedlit.server.checkpoint.folders import round_dir


@pytest.mark.parametrize("error", [LostWorkers("worker processes were lost"), LostRounds("2 rounds were lost")])
def test_a_fatal_error_is_printed_with_the_command_that_resumes_the_run_and_ends_with_status_1(
    monkeypatch, capsys, tmp_path, error
):
    references = []

    def train():
        partial = torch.zeros(1)
        references.append(weakref.ref(partial))
        raise error

    monkeypatch.setattr(hydra_job, "to_plain", lambda config: {"_target_": "fedlit.data.Iid"})
    settings = SimpleNamespace(
        mode=RunMode.RUN,
        runtime=SimpleNamespace(output_dir=str(tmp_path), config_sources=[]),
        overrides=SimpleNamespace(task=[]),
        job=SimpleNamespace(env_set={}, config_name=PRIMARY),
    )
    round_dir(tmp_path, 1).mkdir(parents=True)  # a checkpoint
    job = HydraJob(SimpleNamespace(traceback=False, check=False), settings)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as stop, report_errors(job, StopRequest()):
        train()
    assert stop.value.code == 1
    assert stop.value.__context__ is error
    assert references[0]() is None  # no tensor in the error's frames outlives the interpreter
    printed = capsys.readouterr().err.splitlines()
    hint = "the last checkpoint is complete. To resume the run after the problem is solved:"
    assert printed == [f"fedlit: {error}; {hint}", f"  python -m fedlit.train resume={tmp_path}"]


ROOT = Path(fedlit.__file__).parent

MODULE = """
import traceback
import fedlit.models

class Recording(fedlit.models.Classifier):
    def training_step(self, batch, batch_idx):
        with open("frames.txt", "w") as file:
            print([(frame.filename, frame.name) for frame in traceback.extract_stack()], file=file)
        return super().training_step(batch, batch_idx)
"""


@pytest.mark.slow
def test_at_most_twelve_frames_lie_between_the_command_and_a_clients_fit(tmp_path, monkeypatch):
    """With the default executor, which times each job in this process: the deepest way without worker processes.

    The last frame is that of the local work: one client's fit, or a stack's.
    """
    (tmp_path / "recording.py").write_text(MODULE)
    overrides = ["model=logistic", "model._target_=recording.Recording", "observers=none"]
    overrides += ["schedule.rounds=2", "schedule.clients_per_round=2", "schedule.local_steps=1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FEDLIT_ALLOW", "recording")
    monkeypatch.setattr(sys, "argv", ["fedlit", *overrides])
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    frames = ast.literal_eval((tmp_path / "frames.txt").read_text())
    fit = next(number for number, (file, _) in enumerate(frames) if "/lightning/pytorch/trainer/" in file)
    ours = [(Path(file), name) for file, name in frames[:fit] if Path(file).is_relative_to(ROOT)]
    names = [(file.relative_to(ROOT).as_posix(), name) for file, name in ours]
    assert names[:4] == [
        ("train.py", "<module>"),
        ("cli/train.py", "main"),
        ("cli/train.py", "_job"),
        ("experiment/runner.py", "run_experiment"),
    ]
    assert names[-1] == ("client/fit/single.py", "fit")
    assert len(names) <= 12, names


def sweep_job(folder, **config):
    """A job of a sweep, without a composed configuration."""
    settings = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        runtime=SimpleNamespace(output_dir=str(folder), config_sources=[]),
        overrides=SimpleNamespace(task=["seed=1"]),
        job=SimpleNamespace(env_set={}, config_name=PRIMARY, num=0),
    )
    return HydraJob(SimpleNamespace(**{"traceback": False, "check": False, **config}), settings)  # type: ignore[arg-type]


def test_failure_of_an_earlier_attempt_is_removed_when_a_job_begins_again_and_when_it_is_finished(tmp_path):
    job = sweep_job(tmp_path)
    job.write_status(["no room"])
    assert read_failure(tmp_path) == ["no room"]
    job.write_status()
    assert not (tmp_path / FAILURE).exists()
    job.write_status(["no room"])  # the job is then run alone, which writes no status at its beginning
    job.clean_up()
    assert not (tmp_path / FAILURE).exists()
    assert read_job(tmp_path)["overrides"] == ["seed=1"]


def test_check_leaves_the_failure_of_an_earlier_attempt(tmp_path):
    job = sweep_job(tmp_path)
    job.write_status(["no room"])
    sweep_job(tmp_path, check=True).clean_up()
    assert read_failure(tmp_path) == ["no room"]


@pytest.mark.parametrize("names", [["model.ckpt"], ["rounds.jsonl"], ["notes.txt"], ["job.json", "failure.json"]])
def test_clean_up_of_a_run_that_did_not_start_removes_nothing_but_its_own_files(tmp_path, names):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    for name in ("train.log", "lock", *names):
        (folder / name).touch()
    jobs.remove_untrained(folder)
    assert {path.name for path in folder.iterdir()} == {".hydra", "train.log", "lock", *names}
    for name in names:
        (folder / name).unlink()
    with FileLock(folder / "lock"):  # of a run in another process that has written no other file yet
        jobs.remove_untrained(folder)
    assert folder.is_dir()
    jobs.remove_untrained(folder)
    assert not folder.exists()
    assert tmp_path.exists()


def test_clean_up_of_a_finished_job_keeps_the_run(tmp_path):
    for name in (".hydra", "train.log", "lock"):
        (tmp_path / name).mkdir()
    sweep_job(tmp_path).clean_up()
    assert {path.name for path in tmp_path.iterdir()} == {".hydra", "train.log", "lock"}


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(1)])
def test_error_of_a_job_after_a_stop_signal_is_no_failure_of_the_job(tmp_path, error):
    request = StopRequest()
    with report_errors(sweep_job(tmp_path), request):
        raise error
    assert read_failure(tmp_path) == [f"{type(error).__name__}: {error}"]
    (tmp_path / FAILURE).unlink()
    request.interruption = Interrupted(signal.SIGTERM)
    with pytest.raises(type(error)), report_errors(sweep_job(tmp_path), request):
        raise error
    assert not (tmp_path / FAILURE).exists()


@pytest.fixture
def own_request(monkeypatch):
    """Leave the request of other tests as it is."""
    monkeypatch.setattr(train, "_sweep_request", StopRequest())


@pytest.mark.usefixtures("own_request")
def test_stop_signal_that_code_suppresses_stops_the_sweep(tmp_path):
    def stopped():
        with suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)

    sweep = Sweep(tmp_path / "no-folder", "call", ())
    with pytest.raises(Interrupted) as interrupted, train._finish_sweep(sweep):
        stopped()
    assert interrupted.value.hint == "run the same command again to resume the sweep"


@pytest.mark.usefixtures("own_request")
def test_stop_signal_is_not_hidden_by_an_error_that_follows_it(tmp_path):
    def stopped():
        with suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(0)

    with pytest.raises(Interrupted), train._finish_sweep(Sweep(tmp_path / "no-folder", "call", ())):
        stopped()


def test_an_override_with_an_interpolation_is_kept_as_it_was_given():
    texts = ["+width=0.25", "model.dropout=${width}"]
    settings = OmegaConf.create({"mode": RunMode.RUN, "overrides": {"task": texts}})
    assert HydraJob(SimpleNamespace(), settings).overrides == texts  # type: ignore[arg-type]
