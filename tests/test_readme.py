"""What the README shows runs, from a folder outside the package."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from fedlit.cli import train
from fedlit.core.errors import ConfigErrors

README = (Path(__file__).parent.parent / "README.md").read_text()
FILES = {match[1]: match[0] for match in re.finditer(r"(?<=```python\n)# (my_\w+)\.py\n.*?(?=```)", README, re.DOTALL)}
COMMANDS = [line.split()[3:] for line in README.splitlines() if re.match(r"python -m fedlit\.train .*=my_", line)]

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command puts its folder there
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def test_each_is_shown_in_under_20_lines():
    assert set(FILES) == {"my_model", "my_data", "my_algorithm", "my_script"}
    assert all(len([line for line in text.splitlines() if line]) < 20 for text in FILES.values())


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_the_commands_with_ones_own_run(folder, monkeypatch, arguments):
    as_shown = arguments[0] == "data=custom"  # one with all who watch, as a reader types it; they take time
    monkeypatch.setattr(sys, "argv", ["fedlit", *arguments, *([] if as_shown else ["observers=none"])])
    train.main()
    (path,) = (folder / "outputs" / "runs").glob("*/*")
    assert (path / "summary.json").is_file()
    assert [(path / name).exists() for name in ("tensorboard", "partition.png")] == [as_shown] * 2
    assert len((path / "rounds.jsonl").read_text().splitlines()) == 3


def test_all_three_of_ones_own_have_a_command():
    assert {arguments[0] for arguments in COMMANDS} == {"model=custom", "data=custom", "algorithm=custom"}


def test_the_script_without_hydra_runs(folder, capsys):
    runpy.run_path(str(folder / "my_script.py"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]
    script = (folder / "my_script.py").read_text()
    for old, new, rounds in (("rounds=3", "rounds=4", ["4"]), ("rounds=3", "rounds=3", [])):
        (folder / "my_script.py").write_text(script.replace(old, new))
        runpy.run_path(str(folder / "my_script.py"))
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == rounds
    (folder / "my_script.py").write_text(script.replace("seed=1", "seed=2"))
    with pytest.raises(ConfigErrors, match=r"seed=2: was 1 in the rounds that .*my_run has"):
        runpy.run_path(str(folder / "my_script.py"))


def test_every_group_and_choice_in_the_table_is_there():
    from fedlit.cli.command_line import config_dir

    table = README[README.index("| group | choices |") : README.index("The keys that are typed most")]
    for line in (line for line in table.splitlines()[2:] if line):
        groups, choices = (re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:3])
        for choice in choices if len(groups) == 1 else ():
            assert (config_dir() / groups[0] / f"{choice}.yaml").is_file(), (groups[0], choice)
    groups = ("data", "partition", "model", "algorithm", "experiment")
    names = {path.stem for group in groups for path in (config_dir() / group).glob("*.yaml")}
    assert not [name for name in names if f"`{name}`" not in table]
