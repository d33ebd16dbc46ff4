"""The pages of docs/api are what their generator makes of the docstrings."""

import logging
import re
import runpy
from pathlib import Path

import pytest

import fedlit
from fedlit.experiment.config.trust.public_names import FEDLIT_NAMES, NETWORKS

griffe = pytest.importorskip("griffe", reason="needs fedlit[docs]")
ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "api_reference.py"))
PAGES = {path.name: path.read_text() for path in (ROOT / "docs" / "api").glob("*.md")}


@pytest.mark.slow
def test_the_pages_are_what_the_generator_writes():
    remedy = "python scripts/api_reference.py writes them again"
    assert SCRIPT["make_pages"]() == PAGES, remedy


def test_each_public_name_has_its_text_on_one_page():
    headings = re.findall(r"^### `fedlit\.(\w+)`$", "".join(PAGES.values()), re.MULTILINE)
    assert sorted(headings) == dir(fedlit)


def test_each_name_that_a_configuration_may_call_has_its_text():
    headings = set(re.findall(r"^### `([\w.]+)`$", "".join(PAGES.values()), re.MULTILINE))
    names = [*FEDLIT_NAMES, *NETWORKS]
    assert [name for name in names if not {name, f"fedlit.{name.rpartition('.')[2]}"} & headings] == []


def test_each_name_is_in_the_table_of_the_pages():
    table = PAGES["index.md"]
    names = [(page, name) for page in PAGES for name in re.findall(r"^<!-- api: (\S+) -->$", PAGES[page], re.MULTILINE)]
    assert len(names) > 100
    anchors = [f"]({page}#{name.replace('.', '').lower()})" for page, name in names]
    assert [anchor for anchor in anchors if anchor not in table] == []


SOURCE = '''
from abc import ABC, abstractmethod
from dataclasses import dataclass

class Base(ABC):
    """A base.

    Attributes:
        order: its place.
    """

    @property
    def is_open(self) -> bool:
        """True if it is open.

        False by default.
        """

    @abstractmethod
    def step(self, *terms: int, only: str | None = None) -> tuple[int, int]:
        """Take a step.

        Args:
            terms: terms of a * b.
            only: a name,
                or None.

        Returns:
            steps: steps taken.
            rest: steps that are left.

        Raises:
            ValueError: if `terms` is empty.
        """

    def _private(self):
        """Not on the page."""

    def undocumented(self): ...

@dataclass(frozen=True)
class Child(Base):
    """A child of <x, y> and ||u||_1.

    Args:
        rate: a rate, in (0, 1].
    """

    rate: float = 0.5
'''
BASE = """### `fedlit.Base`

Abstract class in [`fedlit/__init__.py`](../../fedlit/__init__.py).

A base.

**Attributes**

- `order`: its place.

**Properties**

- `is_open` (`bool`): True if it is open. False by default.

#### `Base.step`

```python
@abstractmethod
step(*terms: int, only: str | None = None) -> tuple[int, int]
```

Take a step.

**Arguments**

- `terms`: terms of a * b.
- `only`: a name, or None.

**Returns**

- `steps`: steps taken.
- `rest`: steps that are left.

**Raises**

- `ValueError`: if `terms` is empty.
"""
CHILD = """### `fedlit.Child`

Class in [`fedlit/__init__.py`](../../fedlit/__init__.py); base class [`Base`](base.md#fedlitbase).

```python
Child(rate: float = 0.5)
```

A child of &lt;x, y> and ||u||\\_1.

**Arguments**

- `rate`: a rate, in (0, 1].

**Attributes**

- `order`: its place.
"""


def package(folder, source):
    (folder / "fedlit").mkdir()
    (folder / "fedlit" / "__init__.py").write_text(source)
    return SCRIPT["load"](folder)


def test_an_entry_has_the_signature_the_lists_and_the_documented_members(tmp_path):
    pages = {"fedlit.Base": ("base.md", "fedlit.Base")}
    loaded = package(tmp_path, SOURCE)
    for name, expected in (("fedlit.Base", BASE), ("fedlit.Child", CHILD)):
        assert "\n".join(SCRIPT["entry"](name, loaded, "child.md", pages)) == expected


def test_a_long_signature_has_one_argument_a_line(tmp_path):
    loaded = package(tmp_path, f"def f(a: int, *, {'b' * 80}=None) -> int: ...\n")
    found = loaded["f"]
    lines = SCRIPT["signature"]("f", found.parameters, found.returns)
    assert lines == ["```python", f"f(\n    a: int,\n    *,\n    {'b' * 80}=None,\n) -> int", "```", ""]


def test_hand_written_text_stays_and_the_text_below_a_marker_is_replaced():
    page = (
        "# Title\n\nText.\n\n<!-- api: fedlit.A -->\nold\n\n## Next\n\nMore.\n\n<!-- api: fedlit.B -->\nold\n### old\n"
    )
    new = SCRIPT["MARKER"].sub(lambda match: f"{match[1]}{match[2]}\n", page)
    assert new == (
        "# Title\n\nText.\n\n<!-- api: fedlit.A -->\nfedlit.A\n## Next\n\nMore.\n\n<!-- api: fedlit.B -->\nfedlit.B\n"
    )


def test_an_argument_that_the_signature_lacks_is_a_complaint(tmp_path):
    source = 'def f(a: int) -> int:\n    """Add.\n\n    Args:\n        b: not there.\n    """\n'
    complaints = SCRIPT["Complaints"]()
    logging.getLogger("griffe").addHandler(complaints)
    try:
        list(SCRIPT["entry"]("fedlit.f", package(tmp_path, source), "f.md", {}))
    finally:
        logging.getLogger("griffe").removeHandler(complaints)
    assert any("'b' does not appear in the function signature" in text for text in complaints.found)


def test_a_section_without_a_place_on_the_page_is_refused(tmp_path):
    source = 'def f() -> int:\n    """Add.\n\n    Yields:\n        A number.\n    """\n'
    with pytest.raises(SystemExit, match=r"fedlit\.f: .* yields"):
        list(SCRIPT["entry"]("fedlit.f", package(tmp_path, source), "f.md", {}))
