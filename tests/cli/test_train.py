"""The command, in most tests in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from fedlit.cli import train

pytestmark = pytest.mark.slow


def run(folder, *arguments, command=("-m", "fedlit.train"), **environment):
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *command, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "80", **environment},
        check=False,
    )


def only_run(folder):
    (path,) = (folder / "outputs" / "runs").glob("*/*")
    return path


def test_without_arguments_the_command_trains_on_digits_and_writes_all_files_of_a_run(tmp_path):
    end = run(tmp_path)
    assert end.returncode == 0, end.stderr
    assert end.stderr == ""
    path = only_run(tmp_path)
    assert {
        "config.yaml",
        "rounds.jsonl",
        "summary.json",
        "tensorboard",
        "model.ckpt",
        "best.ckpt",
        "model.safetensors",
        "partition.json",
        "partition.png",
        "train.log",
        ".hydra",
        "lock",
        "command.json",
        "checkpoints",
    } == {entry.name for entry in path.iterdir()}
    summary = json.loads((path / "summary.json").read_text())
    records = [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]
    assert summary["rounds"] == len(records) == 20
    assert summary["state_sha256"] == records[-1]["state_sha256"]
    assert summary["best"]["metrics"]["val/accuracy"] == max(record["val/accuracy"] for record in records)
    assert summary["best"]["metrics"]["test/accuracy"] > 0.9
    assert summary["versions"]["torch"]
    log = (path / "train.log").read_text().splitlines()
    others = [line for line in log if " INFO round " not in line]  # the executor's choice, and how its processes start
    assert len(log) - len(others) == 20
    assert "executor=auto" in others[0]
    assert [line for line in others if "executor=auto" not in line and " worker processes " not in line] == []
    begin, lines = end.stdout.splitlines()[:5], end.stdout.splitlines()[5:]
    assert begin == [
        "fedlit: composing the configuration",
        "fedlit: importing torch and Lightning",
        "fedlit: loading the data",
        "fedlit: trying one step of training and an evaluation",
        f"fedlit: training in {path.relative_to(tmp_path)}",
    ]
    assert [line.split()[1] for line in lines[:20]] == [f"{n}/20" for n in range(1, 21)]
    assert max(map(len, lines[20:-1])) <= 80
    assert lines[-1] == f"tensorboard --logdir {path.relative_to(tmp_path)}"


def test_errors_are_printed_together_with_status_2_and_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["fedlit", "data=cifra10", "seeed=1", "algorithm.weights=x", "partition.alpha=0"])
    with pytest.raises(SystemExit) as end:  # the next test uses a process, which has less to import
        train.main()
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "4 errors" in printed
    for part in ("did you mean cifar10?", "did you mean seed?", "examples, uniform", "must be greater than 0"):
        assert part in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "outputs").exists()


def test_an_unwritable_output_folder_is_reported_first(tmp_path):
    (tmp_path / "file").touch()
    end = run(tmp_path, "hydra.run.dir=file/run")
    assert end.returncode == 2
    assert "hydra.run.dir=file/run" in end.stderr
    assert "Traceback" not in end.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=cifra10"], "did you mean cifar10?"),
        (["-m", "seed=1,2"], "leave -m out"),
        (["seed=1,2"], "-m starts a run for each value"),
    ],
)
def test_a_configuration_that_cannot_be_printed_is_an_error(arguments, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["fedlit", "--cfg", "job", *arguments])
    with pytest.raises(SystemExit) as end:
        train.main()
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "expected"), [("--help", "COMMON KEYS"), ("--cfg=job", "client_fraction: 0.3"), ("--hydra-help", "Hydra")]
)
def test_hydras_own_flags_work(tmp_path, flag, expected):
    end = run(tmp_path, *flag.split("="))
    assert end.returncode == 0
    assert expected in end.stdout
    assert flag != "--help" or max(map(len, end.stdout.splitlines())) <= 80


def test_completion_offers_choices(tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), "fedlit")
    if not os.path.exists(script):
        pytest.skip("the console script is not installed")
    end = subprocess.run(
        [script, "-sc", "query=bash"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COMP_LINE": "fedlit algorithm=", "COMP_POINT": "17"},
    )
    assert {"algorithm=fedavg", "algorithm=fedprox"} <= set(end.stdout.split())
