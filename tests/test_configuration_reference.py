"""The configuration reference is what its generator makes of conf/ and the constructors."""

import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "configuration_reference.py"))
PAGE = ROOT / "docs" / "configuration_reference.md"


@pytest.mark.slow
def test_the_page_is_what_the_generator_writes():
    remedy = "python scripts/configuration_reference.py writes it again"
    assert SCRIPT["page"]() == PAGE.read_text(), remedy


def test_each_choice_and_each_key_of_conf_is_on_the_page():
    page = PAGE.read_text()
    for path in (ROOT / "conf").rglob("*.yaml"):
        group = path.parent.relative_to(ROOT / "conf").as_posix()
        if group.startswith("hydra"):
            continue
        content = yaml.safe_load(path.read_text()) or {}
        keys = [key for key in content if not key.startswith("_") and key not in ("defaults", "hydra")]
        if group == ".":
            assert [key for key in keys if f"| `{key}" not in page] == []
        elif group in SCRIPT["WHOLE"]:
            assert f"`{group}={path.stem}` sets:" in page
        else:
            assert f"| `{path.stem}` |" in page
            assert [key for key in keys if f"| `{group.replace('/', '.')}.{key}" not in page] == []


def test_a_row_has_the_comment_or_else_the_arguments_meaning_and_the_range_of_the_constructor(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# mine\n_target_: fedlit.data.Dirichlet\nnum_clients: 7\nalpha: 0.5  # small: uneven,\n"
        "                           # large: nearly IID\nbalanced: false\n"
    )
    target, rows = SCRIPT["rows_of"]("partition", path)
    assert target == "fedlit.data.Dirichlet"
    row = rows["alpha"]
    assert (row.default, row.allowed, row.meaning) == ("0.5", "number > 0", "small: uneven, large: nearly IID")
    assert (rows["num_clients"].default, rows["num_clients"].allowed) == ("7", "whole number >= 1")
    assert rows["num_clients"].meaning.startswith("number of clients")
    assert rows["balanced"].allowed == "true, false"


def test_allowed_values_follow_the_type():
    allowed = SCRIPT["allowed"]
    assert allowed("Literal['drop', 'cut'] | None", "") == "`drop`, `cut`, null"
    assert allowed("int | Literal['auto']", "processes, >= 1") == "whole number >= 1, `auto`"
    assert allowed("float | None", "part of a group, in (0.5, 1]; None: two thirds") == "number in (0.5, 1], null"
    assert allowed("Transform | None", "a transform") == ""


def test_a_key_without_a_meaning_is_refused(tmp_path, monkeypatch):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "mine.yaml").write_text("# mine\nspeed: 3\n")
    monkeypatch.setitem(SCRIPT["group_lines"].__globals__, "CONF", tmp_path)
    with pytest.raises(SystemExit, match=r"trainer\.speed has no meaning"):
        list(SCRIPT["group_lines"]("trainer", "mine"))
