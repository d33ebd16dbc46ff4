"""The examples and commands of the README and the docs run from a folder outside the package."""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from fedlit.cli import train
from fedlit.cli.command_line import parse_command
from fedlit.cli.overrides.texts import expand_home
from fedlit.core.errors import ConfigErrors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {path.relative_to(ROOT / "docs").as_posix(): path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}
PAGES = "\n".join([README, *DOCS.values()])
FILES = {match[1]: match[0] for match in re.finditer(r"(?<=```python\n)# (my_\w+)\.py\n.*?(?=```)", PAGES, re.DOTALL)}
COMMANDS = [line.split()[3:] for line in PAGES.splitlines() if re.match(r"python -m fedlit\.train .*=my_", line)]

SCRIPTS = ("my_script", "my_federation", "my_median")

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


def run(folder, monkeypatch, arguments, *, has_observers=False):
    """Run a command of the docs without its default observers, which take time; return the run's folder and records."""
    monkeypatch.setattr(sys, "argv", ["fedlit", *arguments, *([] if has_observers else ["observers=none"])])
    train.main()
    (path,) = (folder / "outputs" / "runs").glob("*/*")
    return path, [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]


def command_of(name):
    (arguments,) = [arguments for arguments in COMMANDS if any(f"={name}." in argument for argument in arguments)]
    return arguments


def lines_of_code(text):
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_each_example_has_fewer_than_25_lines():
    names = {
        "my_net",
        "my_prox",
        "my_model",
        "my_data",
        "my_algorithm",
        "my_codec",
        "my_sampler",
        "my_median",
        "my_observer",
        "my_script",
        "my_federation",
        "my_ternary",
        "my_partition",
    }
    assert set(FILES) == names
    assert {name: len(lines_of_code(text)) for name, text in FILES.items() if len(lines_of_code(text)) >= 25} == {}


def test_the_examples_of_the_readme_have_at_most_12_lines():
    assert all(f"# {name}.py" in README for name in ("my_net", "my_prox"))
    assert max(len(lines_of_code(FILES[name])) for name in ("my_net", "my_prox")) <= 12


def test_the_readme_has_about_120_lines():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0].split("=")[0].lstrip("+"))
def test_the_command_of_each_example_runs(folder, monkeypatch, arguments):
    has_observers = arguments[0] == "data=custom"  # one command runs exactly as a reader gives it
    path, records = run(folder, monkeypatch, arguments, has_observers=has_observers)
    assert (path / "summary.json").is_file()
    assert [(path / name).exists() for name in ("tensorboard", "partition.png")] == [has_observers] * 2
    assert len(records) == 3


def test_each_example_except_the_scripts_has_one_command():
    assert {name: command_of(name)[0].partition("=")[0] for name in FILES if name not in SCRIPTS} == {
        "my_net": "model",
        "my_prox": "algorithm",
        "my_model": "model",
        "my_data": "data",
        "my_algorithm": "algorithm",
        "my_codec": "compression",
        "my_sampler": "sampler._target_",
        "my_observer": "+observers.mine._target_",
        "my_ternary": "compression",
        "my_partition": "partition",
    }
    assert len(COMMANDS) == 10


def test_the_algorithm_of_the_readme_is_fedprox_bit_for_bit(folder, monkeypatch):
    command = [*command_of("my_prox"), "schedule.rounds=2"]
    _, mine = run(folder, monkeypatch, [*command, "hydra.run.dir=outputs/runs/mine/1"])
    shutil.rmtree(folder / "outputs")
    _, ours = run(folder, monkeypatch, ["algorithm=fedprox", "algorithm.proximal=0.01", "schedule.rounds=2"])
    assert [record["state_sha256"] for record in mine] == [record["state_sha256"] for record in ours]


def test_the_sampler_takes_the_largest_of_half_of_the_clients(folder, monkeypatch):
    path, records = run(folder, monkeypatch, command_of("my_sampler"))
    sizes = json.loads((path / "partition.json").read_text())["sizes"]
    largest = sorted(range(len(sizes)), key=lambda client: -sizes[client])
    assert all(set(record["cohort"]).isdisjoint(largest[-2:]) for record in records)


def test_the_codec_halves_the_bytes_as_the_page_says(folder, monkeypatch):
    half, whole = 318_036, 636_048
    assert f"three clients send {half:,} bytes in a round instead of {whole:,}:" in " ".join(
        DOCS["extending.md"].split()
    )
    _, records = run(folder, monkeypatch, [*command_of("my_codec"), "schedule.rounds=1"])
    assert [record["comm/up_bytes"] for record in records] == [half]
    numbers, weights = 3 * 53_002, 3
    assert (half, whole) == (2 * numbers + 8 * weights, 4 * numbers + 8 * weights)


def test_the_observer_prints_each_round(folder, monkeypatch, capsys):
    _, records = run(folder, monkeypatch, command_of("my_observer"))
    expected = [f"{r['round']} {tuple(r['cohort'])} {r['comm/up_bytes']}" for r in records]
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith("fedlit: ")] == expected


def test_the_script_without_hydra_runs_and_resumes(folder, capsys):
    runpy.run_path(str(folder / "my_script.py"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]
    script = (folder / "my_script.py").read_text()
    for old, new, rounds in (("rounds=3", "rounds=4", ["4"]), ("rounds=3", "rounds=3", [])):
        (folder / "my_script.py").write_text(script.replace(old, new))
        runpy.run_path(str(folder / "my_script.py"))
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == rounds
    (folder / "my_script.py").write_text(script.replace("seed=1", "seed=2"))
    with pytest.raises(ConfigErrors, match=r"seed=2: was 1 in the checkpoints of my_run"):
        runpy.run_path(str(folder / "my_script.py"))


def test_the_script_with_an_aggregator_runs(folder, capsys):
    runpy.run_path(str(folder / "my_median.py"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [number for number, _ in lines] == ["1", "2", "3"]
    assert all(0 < float(accuracy) < 1 for _, accuracy in lines)


def test_the_script_with_a_module_a_pair_and_an_observer_runs(folder, monkeypatch, capsys):
    monkeypatch.syspath_prepend(folder)
    runpy.run_path(str(folder / "my_federation.py"))
    first, *lines = capsys.readouterr().out.splitlines()
    assert f"It prints `{first}`" in " ".join(DOCS["from_python.md"].split())
    assert [line.split()[0] for line in lines[::2]] == ["1", "2", "3"]
    assert all(0 < float(line) < 3 for line in lines[1::2])


def test_the_error_example_is_the_text_of_today(capsys, monkeypatch):
    """The page shortens a list of choices by dots."""
    page = DOCS["configuration.md"]
    example = page[page.index("$ python -m fedlit.train data=cifra10") :].split("```")[0]
    command, *lines = example.splitlines()
    monkeypatch.setattr(sys, "argv", ["fedlit", *command.split()[4:]])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(lines)
    for line, text in zip(printed, lines, strict=True):
        assert line == text or (text.endswith("...") and line.startswith(text.removesuffix("...")))


def test_the_table_of_imports_is_the_one_of_the_architecture_test():
    from test_architecture import ALLOWED

    page = DOCS["architecture.md"]
    table = page[page.index("| package | may import |") :].split("\n\n")[0]
    rows = [[re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:3]] for line in table.splitlines()[2:]]
    allowed = {package: set(imports) for packages, imports in rows for package in packages}
    assert allowed.keys() == ALLOWED.keys()
    assert "| `experiment` | all of the above except `reports` |" in table
    assert "| `cli` | all |" in table
    above = allowed.keys() - {"experiment", "cli"}
    allowed |= {"experiment": above - {"reports"}, "cli": above | {"experiment"}}
    assert allowed == {package: set(imports) for package, imports in ALLOWED.items()}


def test_the_table_of_joints_has_every_method_of_each_base_class():
    from hydra.utils import get_object

    page = DOCS["architecture.md"]
    table = page[page.index("| to add | subclass |") :].split("\n\n")[0]
    rows = [[re.findall(r"`([\w.]+)[^`]*`", cell) for cell in line.split("|")[2:5]] for line in table.splitlines()[2:]]
    assert len(rows) == 10
    for (path,), abstract, defaults in rows:
        base = get_object(path)
        methods = {name for name in vars(base) if not name.startswith("_") or name == "__call__"}
        required = {name for name in base.__annotations__ if name not in vars(base)}  # `order` of a Stage
        required |= getattr(base, "__abstractmethods__", set())  # Fault and Observer are no ABCs
        assert set(abstract) == required, path
        assert set(defaults) == methods - set(abstract), path


def test_every_group_and_choice_in_the_table_exists():
    from fedlit.cli.command_line import config_dir

    page = DOCS["configuration.md"]
    table = page[page.index("| group | choices |") : page.index("## The most common keys")]
    for line in (line for line in table.splitlines()[2:] if line):
        groups, choices = (re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:3])
        for choice in choices if len(groups) == 1 else ():
            assert (config_dir() / groups[0] / f"{choice}.yaml").is_file(), (groups[0], choice)
    groups = ("data", "partition", "model", "algorithm", "experiment")
    names = {path.stem for group in groups for path in (config_dir() / group).glob("*.yaml")}
    assert not [name for name in names if f"`{name}`" not in table]


def all_commands():
    """The commands of fedlit.train in the documentation, without flags, runs to resume and the plugins of fedlit[sweep]."""
    pages = "\n".join([README, *DOCS.values()]).replace("\\\n", " ")
    lines = [
        line for block in re.findall(r"```(?:console|bash)\n(.*?)```", pages, re.DOTALL) for line in block.splitlines()
    ]
    found = {match[1] for line in lines if (match := re.match(r"(?:\w+=\S+ )*python -m fedlit\.train\b(.*)", line))}
    commands = {text: shlex.split(text, comments=True) for text in sorted(found)}
    commands = {
        text: words for text, words in commands.items() if not any(w.startswith(("--", "resume=")) for w in words)
    }
    return {text: [w for w in words if not w.startswith(("hydra", "hparams_"))] for text, words in commands.items()}


def test_each_command_of_the_documentation_has_choices_and_keys_that_exist():
    commands = all_commands()
    assert len(commands) > 50
    errors = {
        text: [str(error) for error in parse_command(expand_home(words)).errors] for text, words in commands.items()
    }
    assert {text: found for text, found in errors.items() if found} == {}
