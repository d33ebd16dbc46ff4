"""Hints for wrong keys: the most similar key of the whole tree, tried before it is printed."""

import pytest

from fedlit.cli.command_line import parse_command
from fedlit.cli.overrides.suggestions import similar_keys

KEYS = [
    *("data", "data._target_", "data.batch_size", "data.eval_batch_size", "schedule", "schedule.rounds", "schedule.lr"),
    "schedule.local_epochs",
    *("model", "model.norm", "model.dropout", "model.optimizer", "model.optimizer.lr", "model.optimizer.name"),
    *("algorithm", "algorithm.weights", "algorithm.lr", "monitor", "monitor.name", "seed"),
]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("model.lr", ["model.optimizer.lr"]),
        ("model.width", []),
        ("lr", ["schedule.lr", "algorithm.lr", "model.optimizer.lr"]),
        ("round", ["schedule.rounds"]),
        ("schedul.rounds", ["schedule.rounds"]),
        ("schedule.round", ["schedule.rounds"]),
        ("seeed", ["seed"]),
        ("dta", ["data"]),
        ("monitor.nme", ["monitor.name"]),
        ("data.batch", ["data.batch_size"]),
        ("optimizer.name", ["model.optimizer.name"]),
        ("data.epochs", ["schedule.local_epochs"]),
        ("size", []),  # there are several
        ("chanel.half._target_", []),
        ("foo", []),
    ],
)
def test_the_last_part_of_a_key_counts_first_then_the_parts_before(key, names):
    assert sorted(similar_keys(key, KEYS)) == sorted(names)


@pytest.mark.slow
def test_every_hint_for_a_wrong_key_is_one_that_works():
    cases = {
        "model.lr=0.1": "did you mean model.optimizer.lr?",
        "model.width=64": "model has the keys network, shape, classes, norm, dropout, optimizer, scheduler, init_from",
        "model.optimizer.nesterov=true": "+model.optimizer.nesterov=true adds a new key",
        "trainer.devices=2": "each client trains on one device",
        "trainer.max_epochs=1": "schedule.local_epochs and schedule.local_steps set the local work",
        "trainer.max_epoch=1": "schedule.local_epochs and schedule.local_steps set the local work",
        "trainer.precison=bf16": "did you mean trainer.precision?",
        "lr=0.1": "did you mean algorithm.lr or model.optimizer.lr?",  # schedule.lr is a word
        "schedule.round=abc": "did you mean schedule.rounds? Its value must be a whole number",
        "schedule.foo=1": "it takes rounds, client_fraction",
        "data.batch=3": "did you mean data.batch_size?",
        "clock.dedline_s=5": "did you mean clock.deadline_s? clock=lognormal and clock=table have the key",
        "+chanel.x._target_=a.B": "did you mean +channel.x._target_=a.B?",
        "+schedul.rounds=3": "did you mean schedule.rounds?",
    }
    errors = parse_command([*cases]).errors
    assert len(errors) == len(cases)
    for error, (text, hint) in zip(errors, cases.items(), strict=True):
        assert error.key == text.partition("=")[0].lstrip("+")
        assert hint in error.hint, text


@pytest.mark.slow
def test_a_model_of_the_user_takes_a_new_key():
    (error,) = parse_command(["model._target_=my_file.Net", "model.width=64"]).errors
    assert error.hint == "+model.width=64 adds a new key"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["model=[mlp,lenet]"], ["-m", "model=[mlp,lenet],mlp"], ["experiment=[a,b]"]])
def test_a_list_of_choices_is_refused_for_every_group(arguments):
    (error,) = parse_command(arguments).errors
    assert error.problem == "merges several choices, and a group has one"
    assert "starts a run for each" in error.hint
