"""The table of the page lists the cases of this folder, in their order, with their differences."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent.parent / "docs" / "lightning_equivalence.md"


def case_tables():
    """The cases of each test module that has some, by the module's file name."""
    modules = {path.name: import_module(path.stem) for path in sorted(FOLDER.glob("test_*.py"))}
    return {name: module.CASES for name, module in modules.items() if hasattr(module, "CASES")}


def expected_rows(cases):
    return [f"| {name} | {f'below {case.tolerance:g}' if case.tolerance else '0'} |" for name, case in cases.items()]


def test_the_page_lists_all_cases_with_their_differences():
    sections = dict(
        re.findall(r"^## [^\n]*`(test_\w+\.py)`\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    )
    tables = case_tables()
    assert list(sections) == list(tables)
    for name, text in sections.items():
        rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| case |")]
        assert rows == expected_rows(tables[name]), name
