"""`python -m fedlit.privacy`: its command line, its errors, and what it imports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedlit.cli.privacy import privacy_command
from fedlit.experiment.plan import privacy_tables

ROOT = Path(__file__).parents[2]
CENTRAL = ["privacy=central", "sampler=poisson", "algorithm.weights=uniform", "privacy.noise_multiplier=1"]


@pytest.fixture
def calls(monkeypatch):
    """The arguments with which the tables are printed."""
    calls = []
    monkeypatch.setattr(privacy_tables, "print_privacy", lambda *values: calls.append(values))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return calls


@pytest.mark.slow
def test_the_command_takes_the_overrides_of_training_and_targets_in_any_order(calls, tmp_path):
    (tmp_path / "privacy").mkdir()
    (tmp_path / "privacy" / "mine.yaml").write_text("_target_: fedlit.aggregation.privacy.CentralDP\nclip: 0.25\n")
    privacy_command([*CENTRAL[1:3], "--target", "2", f"--config-dir={tmp_path}", "privacy=mine", "--target=0.5"])
    ((config, targets),) = calls
    assert targets == [2.0, 0.5]
    assert config["privacy"]["clip"] == 0.25
    assert config["sampler"]["_target_"].endswith("Poisson")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["seeed=1", "privacy=centrall"], "2 errors; nothing was computed"),
        (["resume=outputs/runs/x"], "names a run, and this command takes a configuration"),
        (["-m", "seed=1"], "unrecognized arguments: -m"),
        (["seed=1,2"], "seed=1,2"),
    ],
)
def test_errors_of_the_command_line_end_it_with_status_2(calls, capsys, arguments, problem):
    with pytest.raises(SystemExit) as end:
        privacy_command(arguments)
    assert end.value.code == 2
    assert problem in capsys.readouterr().err
    assert not calls


@pytest.mark.slow
def test_the_command_imports_torch_alone_and_writes_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fedlit.privacy", *CENTRAL, "--target", "8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(
        part in done.stdout
        for part in ("PLD, add-or-remove", "All data of one client", "epsilon spent", "noise for 20")
    )
    imported = set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, re.MULTILINE))
    assert {"torch", "dp_accounting"} <= imported
    assert not imported & {"lightning", "torchvision", "torchmetrics", "sklearn", "matplotlib", "opacus"}
    assert not list(tmp_path.iterdir())
