"""The words of the project: one name for one concept, docstrings that say what they return, plain sentences."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fedlit"
FILES = sorted(PACKAGE.rglob("*.py"))

SHARED_NAMES = {
    "main": "the command of each module that has one",
}
"""Public names that stand in several files, and why."""

RIDDLE = re.compile(r"(What|Who|Whose|Whether|Where|How)\b")

IDIOMS = re.compile(
    r"gone on with|goes on with|to go on\b|\bis told|\bare told|who is (asked|looked|told|waited)|looked at"
    r"|\bwhat (it|they|this|a fit|a run) (came|comes) to\b|came to nothing|come of (it|them)\b"
    r"|those (that|who) (came|come) through|as many at least|so many (of|as|samples|steps|rounds)|in the place of"
    r"|\b(is|be) had\b|whose .{1,30} are whose|let go\b|set aside|what is wrong with|a yardstick|in so many words"
    r"|of one's own|made anew|begun anew|begins anew|what may not be meant|is heeded|nothing is left of|what was typed",
    re.IGNORECASE,
)
TEXTS = [
    *FILES,
    *(ROOT / "conf").rglob("*.yaml"),
    *(ROOT / "scripts").rglob("*.py"),
    *(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)),
    *(ROOT / "docs").rglob("*.md"),
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
]


def name(path):
    return path.relative_to(ROOT).as_posix()


def docstrings():
    """Pairs (place, docstring) of all modules, classes and functions of the package."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{name(path)}:{getattr(node, 'lineno', 1)}", text


def public_names():
    """The files in which each public class and function is defined."""
    files = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                files[node.name].append(name(path))
    return files


def test_a_public_name_is_defined_in_one_file():
    several = {key: files for key, files in public_names().items() if len(files) > 1}
    assert {key: files for key, files in several.items() if key not in SHARED_NAMES} == {}
    assert SHARED_NAMES.keys() <= several.keys()


def test_docstrings_do_not_begin_with_a_riddle():
    riddles = [f"{place} {text.splitlines()[0]}" for place, text in docstrings() if RIDDLE.match(text)]
    assert riddles == []


def test_first_lines_of_docstrings_have_at_most_12_words():
    long = [place for place, text in docstrings() if len(text.splitlines()[0].split()) > 12]
    assert long == []


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_no_line_has_an_idiom(path):
    lines = [f"{number}: {line.strip()}" for number, line in enumerate(path.read_text().splitlines(), 1)]
    assert [line for line in lines if IDIOMS.search(line)] == []
