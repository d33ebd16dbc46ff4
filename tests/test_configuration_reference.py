"""The configuration reference is what its generator makes of conf/ and the constructors."""

import ast
import pkgutil
import re
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


@pytest.mark.slow
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


SETTING = re.compile(r"(?<![\w.+@/\-{}~])([a-z_]+(?:[./][a-z_]+)*)=([\w.\-]*\w)")
"""A choice or a value as it is given on the command line."""
GROUPS = {path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
FREE = ("trainer.", "algorithm.inner.")
"""Keys that conf/ does not list: further arguments of Lightning's Trainer, and those of an inner algorithm."""


def known_keys():
    """The keys of the page, with the values of those that take only listed values."""
    keys = {}
    for line in PAGE.read_text().splitlines():
        if row := re.match(r"\| `([\w.]+)` \| (.*) \|$", line):
            values = re.split(r"(?<!\\)\|", row[2])[1]
            is_list = "`" in values and not re.search(r"\w", re.sub(r"`[^`]*`|null", "", values))
            listed = set(re.findall(r"`([^`]+)`", values)) | {"null", "None"} if is_list else None
            old = keys.get(row[1], set())
            keys[row[1]] = None if listed is None or old is None else listed | old
    return keys


def unknown_settings(text, keys):
    """The settings in a text that no configuration has."""
    unknown = []
    for key, value in SETTING.findall(text):
        if key.startswith(FREE) or key.endswith("_target_") or value != value.lower() or value == "lambda":
            continue
        if key in GROUPS:
            is_known = value.startswith("my_") or (ROOT / "conf" / key / f"{value}.yaml").is_file()
        elif "." in key and key.partition(".")[0] in GROUPS:
            parents = [key.rsplit(".", count)[0] for count in range(1, key.count("."))]
            is_known = keys[key] is None or value in keys[key] if key in keys else any(name in keys for name in parents)
        else:
            continue
        unknown += [] if is_known else [f"{key}={value}"]
    return unknown


def texts_of(path):
    """What a file says: the text constants of code; commands and code in the sentences of a page."""
    if path.suffix == ".py":
        nodes = ast.walk(ast.parse(path.read_text()))
        return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    commands = [line for line in path.read_text().splitlines() if line.startswith("python -m fedlit")]
    return [*re.findall(r"`([^`\n]+)`", prose), *commands]


@pytest.mark.slow
def test_messages_and_pages_name_only_choices_keys_and_values_that_exist():
    keys, unknown = known_keys(), {}
    pages = [ROOT / "README.md", *(path for path in (ROOT / "docs").rglob("*.md") if path != PAGE)]
    for path in [*(ROOT / "fedlit").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml"), *pages]:
        texts = [path.read_text()] if path.suffix == ".yaml" else texts_of(path)
        if found := [setting for text in texts for setting in unknown_settings(text, keys)]:
            unknown[path.relative_to(ROOT).as_posix()] = found
    assert unknown == {}


NAME = re.compile(r"(?<![\w/.])fedlit(?:\.[A-Za-z_]\w*)+(?!\.\w|[\w/*])")


def unknown_names(text):
    """The names of fedlit in a text that do not exist."""
    unknown = []
    for name in NAME.findall(text):
        if name.rpartition(".")[2] == "NAME":
            continue
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            unknown.append(name)
    return unknown


@pytest.mark.slow
def test_messages_and_pages_name_only_names_of_fedlit_that_exist():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    unknown = {}
    for path in [*(ROOT / "fedlit").rglob("*.py"), *pages]:
        texts = [text for text in texts_of(path) if " " in text] if path.suffix == ".py" else [path.read_text()]
        if found := [name for text in texts for name in unknown_names(text)]:
            unknown[path.relative_to(ROOT).as_posix()] = found
    assert unknown == {}


def test_an_unknown_name_is_found():
    text = "take fedlit.MeanAggregator or fedlit.Sampler, `fedlit.data.Dirichlet`, python -m fedlit.train, fedlit.trian"
    assert unknown_names(text) == ["fedlit.MeanAggregator", "fedlit.trian"]


def test_an_unknown_choice_key_or_value_is_found():
    text = "use algorithm.buffers=local, model.norm=group, data=cifra10, schedule.round=5 or schedule.rounds=50, data=mnist"
    expected = ["algorithm.buffers=local", "data=cifra10", "schedule.round=5"]
    assert unknown_settings(text, known_keys()) == expected
