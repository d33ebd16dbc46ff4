"""Flags and overrides in any order, in the commands; the commands and the version."""

import io
import json
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from fedlit import __version__
from fedlit.cli import arguments, evaluate, replay, train
from fedlit.cli.command_line import flags_first
from fedlit.reports import compare, report

ROOT = Path(__file__).parents[2]
COMMANDS = ("train", "evaluate", "replay", "privacy", "report", "compare")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files of a finished run without a best round."""
    for name in ("config.yaml", "rounds.jsonl", "model.ckpt"):
        (tmp_path / name).touch()
    (tmp_path / "summary.json").write_text(json.dumps({"monitor": "val/accuracy"}))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize(
    "order",
    [
        ["RUN", "--checkpoint", "best", "--split", "test", "data.root=FOLDER", "seed=1"],
        ["--split", "test", "RUN", "data.root=FOLDER", "--checkpoint=best", "seed=1"],
        ["RUN", "data.root=FOLDER", "--checkpoint", "best", "seed=1", "--split", "test"],
    ],
)
def test_evaluate_takes_flags_and_overrides_in_any_order(folder, monkeypatch, order):
    (folder / "best.ckpt").touch()
    calls = []
    monkeypatch.setattr(evaluate, "print_evaluation", lambda *values: calls.append(values))
    monkeypatch.setattr(sys, "argv", ["evaluate", *(str(folder) if word == "RUN" else word for word in order)])
    arguments.evaluate_command()
    assert calls == [(folder, ["data.root=FOLDER", "seed=1"], "best", ["test"], [])]


def test_replay_takes_its_folder_and_flags_in_any_order(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(replay, "print_replay", calls.append)
    monkeypatch.setattr(sys, "argv", ["replay", "--round", "2", str(folder), "--client=3"])
    arguments.replay_command()
    (options,) = calls
    assert (options.run, options.round, options.client, options.debug) == (folder, 2, 3, False)


def test_train_takes_flags_between_overrides():
    expected = ["-m", "--config-name=config", "seed=1,2", "schedule.rounds=3", "data=digits"]
    assert flags_first(["seed=1,2", "-m", "schedule.rounds=3", "--config-name=config", "data=digits"]) == expected
    assert flags_first(["seed=1", "--cfg", "job", "data=digits"]) == ["--cfg", "job", "seed=1", "data=digits"]


def test_report_and_compare_take_flags_between_their_folders(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(report, "make_report", lambda *values: calls.append(values) or Mock())
    monkeypatch.setattr(report, "save_report", lambda *_: [])
    monkeypatch.setattr(report, "print_report", lambda *_: None)
    report.main(["a", "--metric", "own/accuracy", "b", "--out", str(tmp_path)])
    assert calls[0][0] == [Path("a"), Path("b")]
    for command in (report, compare):
        with pytest.raises(SystemExit):
            command.main(["--version"])
        assert capsys.readouterr().out == f"fedlit {__version__}\n"


def test_a_best_model_that_was_never_written_is_explained(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", str(folder)])
    with pytest.raises(SystemExit) as end:
        arguments.evaluate_command()
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert "has no best.ckpt: val/accuracy was not a finite number in any round" in printed
    assert "--checkpoint model evaluates the last round's model" in printed


def test_the_debugger_needs_a_terminal(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["replay", str(folder), "--round=1", "--client=0", "--debug"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as end:
        arguments.replay_command()
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "needs a terminal" in printed
    assert "fedlit: 1 error; nothing was repeated" in printed


def test_a_command_without_a_run_names_the_run_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    with pytest.raises(SystemExit):
        arguments.evaluate_command()
    assert capsys.readouterr().err.endswith("error: the following arguments are required: RUN\n")


def test_fedlit_alone_prints_its_commands_and_the_version_is_its_own(monkeypatch, capsys):
    runpy.run_module("fedlit", run_name="__main__")
    printed = capsys.readouterr().out
    assert all(f"python -m fedlit.{name}" in printed for name in COMMANDS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["fedlit", "--version"])
    train.main()
    assert capsys.readouterr().out == f"fedlit {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_file_is_a_script_too(command, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "fedlit" / f"{command}.py"), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fedlit {__version__}\n", "")


LONG = "x" * 300


@pytest.mark.parametrize(
    ("main", "words", "key"),
    [
        (train.main, [f"hydra.run.dir={LONG}"], "hydra.run.dir"),
        pytest.param(train.main, ["-m", "seed=1,2", f"sweep.name={LONG}"], "hydra.sweep.dir", marks=pytest.mark.slow),
        (train.main, [f"resume={LONG}"], "resume"),
        pytest.param(train.main, ["resume=auto", f"hydra.run.dir={LONG}"], "hydra.run.dir", marks=pytest.mark.slow),
        (train.main, [f"--config-dir={LONG}"], "--config-dir"),
        (arguments.evaluate_command, [LONG], "run"),
        (arguments.replay_command, [LONG, "--round=1", "--client=0"], "run"),
        (report.main, [LONG], "PATH"),
        (report.main, ["--watch", "--", LONG], "PATH"),
        (compare.main, [LONG, LONG], "RUN_A"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_path_that_cannot_be_looked_at_is_an_error_of_its_argument(main, words, key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["fedlit", *words])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert f"  {key}=" in printed
    assert "Traceback" not in printed
    assert [*tmp_path.iterdir()] == []
