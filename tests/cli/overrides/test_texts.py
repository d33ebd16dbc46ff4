"""The home folder in the values of overrides and of configurations."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from fedlit.cli.overrides.texts import expand_home
from fedlit.experiment.config.plain import expand_home_paths


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data.root=~/data", "/home/me/data"),
        ("data.root=~", "/home/me"),
        ("data.root=$HOME/my-data", "/home/me/my-data"),
        ("data.root=${HOME}/data", "/home/me/data"),
        ("data.paths=[~/a,b,~/c]", ["/home/me/a", "b", "/home/me/c"]),
        ("data.options={root: ~/a, x: 1}", {"root": "/home/me/a", "x": 1}),
        ("data.root=~nobody-of-this-name", None),
        ("data.root=a~/b", None),
        ("data.root=${data.name}/x", "${data.name}/x"),
        ("data.root='~/kept'", "~/kept"),
        ("~model.scheduler", None),
        ("note=$HOMELESS", None),
    ],
)
def test_a_value_that_begins_with_the_home_folder_is_expanded_in_the_command_line(monkeypatch, text, value):
    monkeypatch.setenv("HOME", "/home/me")
    (expanded,) = expand_home([text])
    if value is None:
        assert expanded == text
    else:
        assert OverridesParser.create().parse_overrides([expanded])[0].value() == value


def test_each_value_of_a_sweep_and_a_flag_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    texts = expand_home(["-m", "data.root=~/a,~/b", "--config-dir=~/conf", "hydra.run.dir=~/run"])
    assert texts == [
        "-m",
        "data.root='/home/me/a','/home/me/b'",
        "--config-dir=/home/me/conf",
        "hydra.run.dir='/home/me/run'",
    ]


def test_paths_of_a_composed_configuration_are_expanded_at_any_depth(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    values = {"root": "~/data", "list": ["$HOME/x", "${HOME}", "~5", "x~/y"], "number": 3, "none": None}
    assert expand_home_paths(values) == {
        "root": "/home/me/data",
        "list": ["/home/me/x", "/home/me", "~5", "x~/y"],
        "number": 3,
        "none": None,
    }
