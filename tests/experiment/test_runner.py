"""What a run says while it goes on, and how it ends when it cannot."""

import logging
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedlit.cli import train
from fedlit.cli.command_line import PRIMARY
from fedlit.core.errors import LostRounds, LostWorkers
from fedlit.core.messages import ClientFailure
from fedlit.experiment import runner as running
from fedlit.experiment.config import build
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.format import round_dir


def test_a_client_that_was_sampled_beyond_need_is_no_warning(caplog):
    failures = (
        ClientFailure(1, "surplus", "came after the first 2"),
        ClientFailure(2, "deadline", "would have taken 9 s"),
    )
    metrics = {"clients/trained": 2, "time/round_s": 0.1}
    running._log(RoundRecord(1, (0, 1, 2, 3), metrics, failures, None, "", None), 5)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == ["round 1: client 2 left out, deadline: would have taken 9 s"]


@pytest.mark.parametrize("error", [LostWorkers("worker processes were lost"), LostRounds("2 rounds were lost")])
def test_a_run_that_cannot_go_on_says_why_and_how_to_and_ends_with_status_1(monkeypatch, capsys, tmp_path, error):
    held = []

    def trained(*_):
        partial = torch.zeros(1)
        held.append(weakref.ref(partial))
        raise error

    monkeypatch.setattr(build, "to_plain", lambda config: {"_target_": "fedlit.data.Iid"})
    monkeypatch.setattr(train, "_trained", trained)
    settings = SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(tmp_path), config_sources=[]),
        overrides=SimpleNamespace(task=[]),
        job=SimpleNamespace(env_set={}, config_name=PRIMARY),
    )
    round_dir(tmp_path, 1).mkdir(parents=True)  # a round was kept
    config = SimpleNamespace(traceback=False, check=False)
    with pytest.raises(SystemExit) as stop:
        train._one(config, settings, 0.0, False)  # type: ignore[arg-type]
    assert stop.value.code == 1
    assert stop.value.__context__ is error
    assert held[0]() is None  # nothing of torch's outlives the interpreter in the error's frames
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"fedlit: {error}; the last round that was kept is whole. To go on once that is mended:"
    assert said[1:] == [f"  python -m fedlit.train resume={Path(tmp_path)}"]
