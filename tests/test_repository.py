"""The files of the repository that other tools read agree with the project."""

import os
import re
import tomllib
from pathlib import Path

import yaml

import fedlit

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_workflow_runs_all_checks_on_each_python():
    (job,) = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_hooks_before_a_commit_are_those_that_ci_asks_for():
    (local,) = read_yaml(".pre-commit-config.yaml")["repos"]
    entries = {hook["id"]: hook["entry"] for hook in local["hooks"]}
    assert {"ruff-format", "ruff", "codespell", "check-yaml", "pyright", "unit-tests"} <= entries.keys()
    commands = {
        line.split()[1] for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith(".venv/bin/ruff")
    }
    assert commands == {"check", "format"} == {entries[key].split()[1] for key in ("ruff", "ruff-format")}
    assert all((ROOT / path).is_file() for text in entries.values() for path in re.findall(r"scripts/\S+", text))


def test_the_citation_is_of_this_version():
    citation = read_yaml("CITATION.cff")
    assert citation["version"] == fedlit.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["title"] == PROJECT["project"]["name"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # those that the format requires


def test_contributing_has_three_commands_that_exist():
    block = (ROOT / "CONTRIBUTING.md").read_text().split("```console\n")[1].split("```")[0]
    commands = [line.split(" # ")[0].strip() for line in block.splitlines()]
    assert len(commands) == 3
    assert all(os.access(ROOT / commands[number].split()[0], os.X_OK) for number in (0, 2))
