"""Overrides that Hydra cannot read, and keys that it cannot delete."""

import sys

import pytest
from hydra import compose

from fedlit.cli import train
from fedlit.cli.command_line import config_loader, parse_command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "subject", "hint"),
    [
        (["algorithm=fedavg,", "fedprox"], "algorithm=fedavg, fedprox", "write algorithm=fedavg,fedprox"),
        (["seed=1,", "2,", "3"], "seed=1, 2, 3", "write seed=1,2,3"),
        (["sweep.name=é"], "sweep.name=é", "write \"sweep.name='é'\""),
        (["sweep.name=it's ü"], "sweep.name=it's ü", "write 'sweep.name="),
        (["seed"], "seed", "write key=value"),
        (["seed=${x"], "seed=${x", "write key=value"),
        (["model.optimizer={lr:1"], "model.optimizer={lr:1", "write key=value"),
    ],
)
def test_an_unreadable_override_is_explained_without_the_words_of_a_parser(arguments, subject, hint):
    (error,) = parse_command(arguments).errors
    assert error.subject == subject
    assert error.hint.startswith(hint)
    for word in ("mismatched", "Lexer", "EOF", "token"):
        assert word not in str(error)


@pytest.mark.slow
def test_a_key_whose_value_is_null_can_be_deleted():
    command = parse_command(["~model.scheduler", "~schedule.local_steps", "~model.dropout"])
    assert command.errors == []
    assert command.first == ["model.scheduler=0", "schedule.local_steps=0"]
    with config_loader():
        config = compose("config", [*command.first, "~model.scheduler", "~schedule.local_steps", "~model.dropout"])
    assert not {"scheduler", "dropout"} & config.model.keys()
    assert "local_steps" not in config.schedule
    assert config.schedule.rounds == 20


@pytest.mark.slow
def test_the_command_line_of_a_deleted_null_has_its_flags_first(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fedlit", "seed=1,2", "-m", "~model.scheduler"])
    assert train._read_command() is not None
    assert sys.argv[1:] == ["-m", "model.scheduler=0", "seed=1,2", "~model.scheduler"]
