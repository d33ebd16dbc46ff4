"""Error reports of one run, and the frames above it."""

import ast
import runpy
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.types import RunMode

import fedlit
from fedlit.cli import hydra_job
from fedlit.cli.command_line import PRIMARY
from fedlit.cli.hydra_job import HydraJob, report_errors
from fedlit.core.errors import LostRounds, LostWorkers
from fedlit.experiment.signals import StopRequest
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
def test_at_most_eleven_frames_lie_between_the_command_and_a_clients_fit(tmp_path, monkeypatch):
    """With the default executor, which times each job in this process: the deepest way without worker processes."""
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
    assert names[-1] == ("client/trainer.py", "fit")
    assert len(names) <= 11, names
