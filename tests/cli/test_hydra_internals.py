"""Canaries of Hydra's private APIs, which name the library and version."""

import ast
import sys
from argparse import ArgumentParser, _ActionsContainer
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra import compose
from omegaconf import DictConfig

import fedlit
from fedlit.cli import train
from fedlit.cli.command_line import config_loader
from fedlit.cli.hydra_internals import (
    active_config_loader,
    add_config_dir,
    lazy_help_texts,
    list_options,
    list_subgroups,
    load_option,
    parse_arguments,
)
from fedlit.core.errors import ConfigErrors

ROOT = Path(fedlit.__file__).parent


@contextmanager
def canary(api):
    """If the block fails, name the private API and the versions."""
    try:
        yield
    except (Exception, SystemExit) as error:
        checked, here = "hydra-core 1.3.8 and omegaconf 2.3", f"{version('hydra-core')} and {version('omegaconf')}"
        pytest.fail(f"{api} is not as in {checked} (here {here}): mend fedlit/cli/hydra_internals.py: {error!r}")


def test_the_libraries_have_the_versions_that_the_private_apis_were_checked_with():
    assert version("hydra-core").startswith("1.3."), "check fedlit/cli/hydra_internals.py, then change this test"
    assert version("omegaconf").startswith("2.3."), "check fedlit/cli/hydra_internals.py, then change this test"


def test_hydras_argument_parser_is_there():
    with canary("hydra._internal.utils.get_args_parser"):
        parsed = parse_arguments(["-m", "--config-dir=folder", "--config-name", "other", "seed=1,2", "data=mnist"])
        assert parsed.overrides == ["seed=1,2", "data=mnist"]
        assert (parsed.multirun, parsed.config_dir, parsed.config_name) == (True, "folder", "other")
        parsed = parse_arguments([])
        assert (parsed.overrides, parsed.multirun, parsed.cfg, parsed.config_path) == ([], False, None, None)


@pytest.fixture
def python_3_14(monkeypatch):
    """Give argparse the check of Python 3.14, if it has none: a help text is formatted when its argument is added."""
    if hasattr(_ActionsContainer, "_check_help"):
        return

    def check_help(self, action):
        if action.help and hasattr(self, "_get_formatter"):
            try:
                self._get_formatter()._expand_help(action)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError("badly formed help string") from error

    def add_argument(self, *names, **options):
        action = add(self, *names, **options)
        self._check_help(action)
        return action

    add = _ActionsContainer.add_argument
    monkeypatch.setattr(_ActionsContainer, "_check_help", check_help, raising=False)
    monkeypatch.setattr(_ActionsContainer, "add_argument", add_argument)


def test_python_3_14_reads_hydras_help_texts(python_3_14):
    with pytest.raises((TypeError, ValueError)):
        ArgumentParser(prog="program").add_argument("--flag", help=object())
    with canary("LazyCompletionHelp of hydra._internal.utils.get_args_parser"):
        assert parse_arguments(["seed=1"]).overrides == ["seed=1"]
    with lazy_help_texts():
        ArgumentParser(prog="program").add_argument("--flag", help=object())
    with pytest.raises(ValueError, match="badly formed"):
        ArgumentParser(prog="program").add_argument("--flag", help="%(nothing)s")


def test_the_command_starts_on_python_3_14(python_3_14, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fedlit", "--cfg", "job", "--package", "partition"])
    train.main()
    assert "num_clients: 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "hints"),
    [
        (["--seed", "3"], ["write seed=VALUE, without --"]),
        (["-m", "--seed=3", "a=1", "--model.lr=2"], ["write seed=3, without --", "write model.lr=2, without --"]),
        (["-x"], ["--help lists the keys"]),
    ],
)
def test_an_option_that_does_not_exist_is_written_as_a_key(arguments, hints):
    with pytest.raises(ConfigErrors) as error:
        parse_arguments(arguments)
    assert [problem.hint for problem in error.value.errors] == hints


def test_the_active_loader_is_hydras_implementation():
    with canary("hydra._internal.config_loader_impl.ConfigLoaderImpl"), config_loader() as loader:
        assert active_config_loader() is loader


def test_a_folder_of_groups_can_be_added(tmp_path):
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "mine.yaml").write_text("rounds: 3\n")
    with (
        canary("hydra._internal.core_plugins.file_config_source.FileConfigSource or ConfigLoaderImpl.repository"),
        config_loader() as loader,
    ):
        add_config_dir(loader, str(tmp_path))
        assert list_options(loader, "schedule") == ["default", "mine"]
        assert compose("config", ["schedule=mine"]).schedule == {"rounds": 3}


def test_groups_and_their_options_can_be_listed_and_loaded():
    with canary("hydra._internal.config_loader_impl.ConfigLoaderImpl.repository"), config_loader() as loader:
        assert {"data", "hydra"} <= set(list_subgroups(loader, ""))
        assert {"launcher", "sweeper"} <= set(list_subgroups(loader, "hydra"))
        assert {"inline", "processes"} <= set(list_options(loader, "executor"))
        assert list_options(loader, "no_such_group") == []
        config = load_option(loader, "executor", "processes")
        assert isinstance(config, DictConfig)
        assert "workers" in config


def test_private_modules_of_hydra_and_omegaconf_are_imported_in_one_file():
    for path in sorted(ROOT.rglob("*.py")):
        if path.relative_to(ROOT).as_posix() == "cli/hydra_internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                library, *parts = name.split(".")
                is_private = library in ("hydra", "omegaconf") and any(part.startswith("_") for part in parts)
                assert not is_private, f"{path.relative_to(ROOT)} imports {name}"
