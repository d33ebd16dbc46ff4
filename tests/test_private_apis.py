"""Private APIs of torch and Lightning stay in eight files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "fedlit"
INTERNALS = {
    "core/torch_internals.py": "torch",
    "core/torch_operations.py": "torch",
    "client/lightning_internals.py": "lightning",
    "client/lightning_logging.py": "lightning",
    "client/fit/lightning_hooks.py": "lightning",
    "client/fit/lightning_run.py": "lightning",
    "client/fit/lightning_signals.py": "lightning",
    "client/vectorized/lanes/lightning_optimization.py": "lightning",
}
"""The files that may use private APIs, each with its library."""
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).as_posix() not in INTERNALS]
PACKAGES = ("client", "algorithms", "core", "data", "models", "server")
ACCESS = {"getattr", "setattr", "delattr", "hasattr"}


def name(path):
    return path.relative_to(ROOT).as_posix()


def is_private(word):
    return word.startswith("_") and not (word.startswith("__") and word.endswith("__"))


def imported(tree):
    """Dotted names that a file imports, with the local name of each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.asname or alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def private_imports(tree):
    return [
        module
        for module, _ in imported(tree)
        if module.split(".")[0] in INTERNALS.values() and any(is_private(part) for part in module.split("."))
    ]


def own_classes(tree):
    """Classes of the file, and classes of ours that the file imports."""
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return classes | {local for module, local in imported(tree) if module.startswith("fedlit.") and local[:1].isupper()}


def private_attributes(tree):
    """Private attributes of others than self, cls and own classes.

    getattr, setattr, delattr and hasattr with a constant name count too.
    """
    own = {"self", "cls", *own_classes(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in own):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ACCESS:
            word = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else ""
            if isinstance(word, str) and is_private(word):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def private_of_libraries(tree):
    """Private attributes of a name that is imported from torch or Lightning."""
    libraries = {local for module, local in imported(tree) if module.split(".")[0] in INTERNALS.values()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in libraries:
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_private_names_of_torch_and_lightning_are_used_in_the_internals_files_alone(path):
    tree = ast.parse(path.read_text())
    uses = [*private_imports(tree), *private_of_libraries(tree)]
    assert not uses, f"{name(path)} uses {uses}: move each use to {' or '.join(INTERNALS)}"


@pytest.mark.parametrize("path", [path for path in FILES if name(path).startswith(PACKAGES)], ids=name)
def test_private_attributes_of_other_objects_are_not_used(path):
    uses = list(private_attributes(ast.parse(path.read_text())))
    assert not uses, f"{name(path)} uses private attributes of others: {uses}"


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("from torch.utils._pytree import tree_leaves", "torch.utils._pytree.tree_leaves"),
        ("from torch.nn.modules.batchnorm import _NormBase", "torch.nn.modules.batchnorm._NormBase"),
        ("import lightning._private", "lightning._private"),
        ("import torch\ntorch._foreach_add_([], [])", "line 2: torch._foreach_add_"),
        ("from torch import nn\nnn.modules.batchnorm._NormBase", "line 2: nn.modules.batchnorm._NormBase"),
    ],
)
def test_the_walk_notices_private_names_of_the_libraries(source, use):
    tree = ast.parse(source)
    assert [*private_imports(tree), *private_of_libraries(tree)] == [use]


def test_the_walk_notices_private_attributes_and_allows_those_of_own_classes():
    lines = [
        "class Own: ...",
        "module._trainer",
        "setattr(part, '_buffers', {})",
        "self._mine, cls._ours, Own._fields, part.__dict__",
    ]
    assert list(private_attributes(ast.parse("\n".join(lines)))) == [
        "line 2: module._trainer",
        "line 3: setattr(part, '_buffers', {})",
    ]


@pytest.mark.parametrize("path", INTERNALS)
def test_each_use_of_a_private_api_names_the_version_and_has_a_canary(path):
    file, library = ROOT / path, INTERNALS[path]
    canaries = (ROOT.parent / "tests" / Path(path).parent / f"test_{file.name}").read_text()
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if not function.name.startswith("_"):
            assert f"{function.name}(" in canaries, f"no canary for {function.name}"
            if function.name != "trainer_scope":  # which only joins others
                text = " ".join((ast.get_docstring(function) or "").split())
                assert f"checked with {library} " in text, f"{function.name} names no version of {library}"
