"""An import only ever points down, and what is kept out of the core stays out."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "fedlit"
FLOORS = [
    {
        "mistakes",
        "collector",
        "tensors",
        "streams",
        "jsonl",
        "keys",
        "layers",
        "speeds",
        "disk",
        "crash",
        "rubbish",
        "statistics",
        "__init__",
    },
    {"fit", "messages", "record", "call", "wire", "pool", "protocols", "facts"},
    {"algorithms", "data", "models", "schedule"},
    {
        "snapshot",
        "bench",
        "logged",
        "displacement",
        "losses",
        "contrast",
        "watch",
        "local",
        "weights",
        "failing",
        "worker",
        "tally",
        "faults",
        "executors",
        "monitor",
    },
    {
        "evaluation",
        "clock",
        "drawn",
        "store",
        "commits",
        "checkpoint",
        "rules",
        "recorded",
        "federation",
        "summary",
        "digests",
    },
    {"observers", "preflight", "arguments", "trial", "make", "material", "build", "plan", "room"},
    {
        *("typed", "command_line", "trust", "signals", "running", "resume", "jobs", "sweep", "train", "evaluate"),
        *("replay", "reports", "report", "compare"),
    },
]
FILES = sorted(ROOT.rglob("*.py"))


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def imports(path):
    """Imports that happen when the module is run, not those for type checkers alone."""
    tree, found = parsed(path), []
    unseen = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    for name in imports(path):
        if name.startswith("fedlit.") and (name.split(".")[1] in set().union(*FLOORS)):
            assert floor(name.split(".")[1]) <= floor(part(path)), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lightning_and_hydra_stay_where_they_belong(path):
    packages = {name.split(".")[0] for name in imports(path)}
    if part(path) not in {
        *("snapshot", "bench", "contrast", "local", "logged", "losses", "watch", "weights", "models"),
        *("preflight", "arguments", "trial", "material", "build"),
    }:
        assert "lightning" not in packages or path.name in ("own.py", "modules.py")
    hydras = {
        "build",
        "make",
        "material",
        "train",
        "jobs",
        "sweep",
        "typed",
        "command_line",
        "trust",
        "evaluate",
        "resume",
    }
    if part(path) not in hydras:
        assert not packages & {"hydra", "omegaconf"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_a_function_are_not_too_long(path):
    assert len(path.read_text().splitlines()) <= 250
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef):
            prose = (ast.get_docstring(node) or "").count("\n") + 1
            assert node.end_lineno - node.lineno - prose <= 42, node.name


def test_there_is_one_backward_and_it_is_lightnings():
    assert not [path for path in FILES if ".backward(" in path.read_text()]
