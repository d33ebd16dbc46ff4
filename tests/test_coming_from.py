"""The page for users of other frameworks names choices, keys and commands that exist."""

import re
from pathlib import Path

import pytest
import yaml
from small import GROUPS, composed

from fedlit.cli.command_line import config_dir

PAGE = (Path(__file__).parent.parent / "docs" / "coming_from.md").read_text()
TABLES, _ = PAGE.split("## A comparison")
HERE = [
    code
    for line in TABLES.splitlines()
    if line.startswith("|")
    for code in re.findall(r"`([^`]+)`", line.rstrip(" |").rpartition(" | ")[2])
]
"""The texts in code of the last column."""
OVERRIDES = sorted({word for code in HERE for word in code.split() if re.match(r"[+a-z_/]+(\.[\w.]+)?=", word)})
KEYS = sorted({code for code in HERE if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", code)} - {"local.fit", "self.log"})
COMMANDS = [line.split("#")[0].split()[3:] for line in PAGE.splitlines() if line.startswith("python -m fedlit.train ")]


def has_key(path):
    """True if the whole configuration, or a choice of the key's group, has a dotted key."""
    group, *rest = path.split(".")
    files = [*(config_dir() / group).glob("*.yaml")] or [config_dir() / "config.yaml"]
    return any(
        _has(yaml.safe_load(file.read_text()), rest if file.parent.name == group else [group, *rest]) for file in files
    )


def _has(node, names):
    return not names or (isinstance(node, dict) and names[0] in node and _has(node[names[0]], names[1:]))


def test_each_choice_that_the_page_names_exists():
    choices = [word.lstrip("+").split("=") for word in OVERRIDES if word.lstrip("+").split("=")[0] in GROUPS]
    missing = [(group, name) for group, name in choices if not (config_dir() / group / f"{name}.yaml").is_file()]
    assert len(choices) > 15
    assert [pair for pair in missing if pair[1] != "..."] == []


def test_each_key_that_the_page_names_exists():
    given = [word.split("=")[0] for word in OVERRIDES if "." in word.split("=")[0] and not word.startswith("+")]
    assert len(KEYS) >= 10
    assert [key for key in {*KEYS, *given} if not has_key(key)] == []
    assert not has_key("schedule.round")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_of_the_page_is_a_valid_configuration(command):
    assert composed(*command)["seed"] == 42
