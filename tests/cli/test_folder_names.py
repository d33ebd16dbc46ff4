"""Any folder name is shown as it is, and the printed commands can be pasted."""

import shlex
import sys

import pytest

from fedlit.cli import train
from fedlit.cli.arguments import evaluate_command, replay_command
from fedlit.cli.resume import resume_command
from fedlit.reports import compare, report
from fedlit.runs.commands import quote

pytestmark = pytest.mark.slow  # whole runs

SMALL = ["model=logistic", "partition=iid", "partition.num_clients=3", "schedule.client_fraction=1",
         "schedule.rounds=1", "schedule.local_steps=1", "executor=inline",
         "observers.tensorboard=null", "observers.partition=null"]  # fmt: skip


def call(monkeypatch, capfd, main, *arguments):
    """Call a command; return what it prints without borders and line breaks."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    capfd.readouterr()
    main()
    return " ".join("".join(capfd.readouterr()).replace("│", " ").split())


@pytest.mark.parametrize("name", ["we ird=dir,[x]", "a[/b]c", "[red]it's", "é:smile:\\"])
def test_a_folder_of_any_name_is_shown_and_read(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    text = call(monkeypatch, capfd, train.main, *SMALL, f"hydra.run.dir={quote(tmp_path / name)}")
    folder = tmp_path / name
    assert (folder / "summary.json").is_file()
    assert f"folder {name}" in text
    command = text[text.index("tensorboard --logdir") :]
    assert shlex.split(command)[2] == name
    assert "fail" not in (folder / "train.log").read_text()  # no observer has ended
    words = shlex.split(resume_command(folder, {}))
    assert words[:3] == ["python", "-m", "fedlit.train"]
    assert f"{folder} is finished after 1 rounds" in call(monkeypatch, capfd, train.main, *words[3:])
    assert "test/accuracy" in call(monkeypatch, capfd, evaluate_command, folder)
    client = "0"
    assert "client 0 in round 1" in call(monkeypatch, capfd, replay_command, folder, "--round", 1, "--client", client)
    assert "the configurations are identical" in call(monkeypatch, capfd, compare.main, folder, folder)
    assert f"{tmp_path / 'out'}: report.html, report.md" in call(
        monkeypatch, capfd, report.main, folder, "--out", tmp_path / "out"
    )
