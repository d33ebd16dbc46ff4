"""The table of allowed imports between packages, the size of packages and files, and where libraries may be used."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "fedlit"
ALLOWED = {
    "core": (),
    "runs": ("core",),
    "data": ("core",),
    "models": ("core",),
    "algorithms": ("core",),
    "aggregation": ("core",),
    "simulation": ("core",),
    "reports": ("core", "runs"),
    "client": ("core", "runs", "data", "algorithms", "aggregation", "simulation"),
    "executors": ("core", "aggregation"),
    "server": ("core", "runs", "data", "algorithms", "aggregation", "simulation", "client", "executors"),
}
ALLOWED["experiment"] = (*ALLOWED["server"], "server", "models")
ALLOWED["cli"] = (*ALLOWED["experiment"], "experiment", "reports")
TOP = {"__init__", "__main__", "train", "evaluate", "replay", "privacy", "report", "compare"}
FILES = sorted(ROOT.rglob("*.py"))
PACKAGES = sorted({path.parent for path in FILES})

LIGHTNING = (
    "client",
    "models",
    "data/custom.py",
    "data/datamodule.py",
    "experiment/weights.py",
    "experiment/config",
    "experiment/observers/loggers",
    "experiment/trial",
)
HYDRA = ("cli", "experiment/config")
EXTRAS = {
    "cryptography": "aggregation/secure/protocol/primitives.py",
    "tenseal": "aggregation/secure/homomorphic/bfv.py",
    "dp_accounting": "aggregation/privacy/accounting/library.py",
}
"""Optional libraries, and the file that imports each."""


def name(path):
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def imports(path):
    """Every module that a file imports, also for type checkers alone, and inside functions."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name(path)} imports relatively"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def package(module):
    """The package of ours that a dotted name is in; None for others' modules and for names of `fedlit` itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "fedlit" and len(parts) > 1 and parts[1] in ALLOWED else None


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_package_imports_only_those_that_the_table_allows(path):
    mine = name(path).split("/")[0]
    if mine.endswith(".py"):
        return  # the public names, and the thin modules
    for module in imports(path):
        other = package(module)
        assert other in (None, mine, *ALLOWED[mine]), f"{name(path)} imports {module}"


def test_every_package_is_in_the_table():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == set(ALLOWED)


def test_the_top_holds_the_public_names_and_thin_commands_alone():
    assert {path.stem for path in ROOT.glob("*.py")} == TOP
    for command in TOP - {"__init__"}:
        assert len((ROOT / f"{command}.py").read_text().splitlines()) <= 10


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_a_package_has_at_most_ten_files(folder):
    assert len(list(folder.glob("*.py"))) <= 10


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_files_import_each_other_in_a_circle():
    """Imports of all kinds are followed; a package's own `__init__` counts only where a name is taken from it."""
    modules = {module_of(path): path for path in FILES}
    graph = {}
    for module, path in modules.items():
        targets = set()
        for imported in imports(path):
            parent = imported.rpartition(".")[0]
            targets |= {imported} & modules.keys() or {parent} & modules.keys()
        graph[module] = targets - {module, "fedlit"}
    done, path = set(), []

    def walk(module):
        if module in path:
            raise AssertionError(" -> ".join([*path[path.index(module) :], module]))
        if module in done:
            return
        path.append(module)
        for target in sorted(graph[module]):
            walk(target)
        done.add(path.pop())

    for module in sorted(graph):
        walk(module)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_lightning_and_hydra_stay_where_they_belong(path):
    libraries = {module.split(".")[0] for module in imports(path)}
    assert "lightning" not in libraries or name(path).startswith(LIGHTNING)
    assert not libraries & {"hydra", "omegaconf"} or name(path).startswith(HYDRA)


@pytest.mark.parametrize(("library", "file"), EXTRAS.items())
def test_a_library_of_an_extra_is_imported_in_one_file(library, file):
    users = [name(path) for path in FILES if library in {module.split(".")[0] for module in imports(path)}]
    assert users == [file]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_and_a_function_are_not_too_long(path):
    assert len(path.read_text().splitlines()) <= 250
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef):
            prose = (ast.get_docstring(node) or "").count("\n") + 1
            assert node.end_lineno - node.lineno - prose <= 42, node.name


SERVER_DATA = {"registry.ClientRegistry", "loading.Loading", "population.gini"}
"""All that the server takes from the package `data`: no samples, and no owners of samples."""


def worker_attributes(path):
    """Yield each attribute that a file reads of a name or an attribute `worker`."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if getattr(owner, "attr", getattr(owner, "id", "")) == "worker":
                yield f"worker.{node.attr}"


@pytest.mark.parametrize("path", sorted((ROOT / "server").rglob("*.py")), ids=name)
def test_the_server_knows_the_data_by_its_registry_only(path):
    if path.name == "setup.py":
        assert "worker.data" in set(worker_attributes(path))  # it makes the worker, and takes the registry from it
        return
    assert set(worker_attributes(path)) <= {"worker.dry_run"}
    data = {module.removeprefix("fedlit.data.") for module in imports(path) if module.startswith("fedlit.data")}
    assert data <= SERVER_DATA
