"""The check of the whole command line, with all errors at once."""

import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import fedlit
from fedlit.cli.command_line import config_dir, parse_command
from fedlit.core.files import flatten
from fedlit.experiment.config.plain import to_plain

ROOT = Path(fedlit.__file__).parent


def keys_and_hints(*arguments):
    return [(error.key, error.hint) for error in parse_command(arguments).errors]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["seed=3", "data=cifar10", "data.root=/tmp/x y", "data.mean=[0.1,0.2,0.3]", "+trainer.max_time=null",
         "+model.optimizer.nesterov=true", "++schedule.rounds=3", "~monitor.name", "~observers.tensorboard",
         "observers.partition=null", "hydra.run.dir=/tmp/x", "--config-name=config"],
        ["experiment=tutorial", "debug=quick"],
        ["-m", "algorithm=fedavg,fedprox", "seed=1,2,3", "partition.alpha=0.1,1"],
        ["seed=range(1,4)", "partition=glob(*)", "hydra/launcher=basic", "-m"],
        ["seed=1,2", "hydra.mode=MULTIRUN"],
        ["model=custom", "model._target_=my.Module", "+model.width=${width}", "+width=3", "+tag=a",
         "hydra.run.dir=out/${tag}", "~experiment", "~debug"],
    ],
)  # fmt: skip
def test_a_valid_command_line_has_no_errors(arguments):
    assert keys_and_hints(*arguments) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        [
            ("data=cifra10", "data", "did you mean cifar10?"),
            ("dta=cifar10", "dta", "did you mean data?"),
            ("seeed=1", "seeed", "did you mean seed?"),
            ("schedule.round=3", "schedule.round", "did you mean schedule.rounds?"),
            ("rounds=3", "rounds", "did you mean schedule.rounds?"),
            ("alpha=0.1", "alpha", "did you mean partition.alpha?"),
            ("model.optimizer.nesterov=true", "model.optimizer.nesterov", "+model.optimizer.nesterov=true"),
            ("+schedule.rounds=3", "schedule.rounds", "without +"),
            ("algorithm=fedavg,fedporx", "algorithm", "did you mean fedprox?"),
            ("~observers.tensorbord", "observers.tensorbord", "did you mean observers.tensorboard?"),
            ("+experiment=tutorial", "experiment", "write experiment=tutorial, without +"),
        ],
        [
            ("seed=1,2", "seed", "-m starts a run for each value"),
            ("algorithm=fedavg,fedprox", "algorithm", "-m starts a run for each value"),
        ],
        [("seed", "seed", "write key=value"), ("a b=c=", "a b=c=", "write key=value")],
        [("--config-dir=/nowhere", "--config-dir", "name a folder that holds groups")],
        [("--config-name=confgi", "--config-name", "did you mean config?")],
        [("--config-path=x", "--config-path", "--config-dir=FOLDER")],
        [("--cfg=job", "--cfg", "leave -m out")],
    ],
)
def test_unknown_names_are_reported_together_each_with_the_most_similar_name(cases):
    multirun = ["-m"] if cases[0][0] == "--cfg=job" else []
    errors = keys_and_hints(*(argument for argument, _, _ in cases), *multirun, "schedule.rounds=9", "sampler=uniform")
    assert [key for key, _ in errors] == [key for _, key, _ in cases]
    for (_, hint), (_, _, expected) in zip(errors, cases, strict=True):
        assert expected in hint


@pytest.mark.slow
def test_a_key_of_other_choices_is_reported_with_those_choices_and_the_current_one():
    keys = ["clock.deadline_s=5", "faults.plans.drop.probability=0.3", "partition.alpha=0.1", "executor.workers=2"]
    errors = parse_command(["partition=shards", "executor=inline", *keys, "clock.dedline_s=5"]).errors
    assert [(error.problem, error.hint) for error in errors] == [
        ("is not a key of clock=none", "clock=lognormal and clock=table have the key"),
        ("is not a key of faults=none", "faults=drop has the key"),
        (
            "is not a key of partition=shards",
            "partition=dirichlet, partition=dirichlet_0.1, partition=dirichlet_0.5, partition=dirichlet_5, "
            "partition=dirichlet_client and partition=quantity have the key",
        ),
        (
            "is not a key of executor=inline",
            "executor=auto, executor=processes, executor=ray and executor=vectorized have the key",
        ),
        ("is not a key of clock=none", "did you mean clock.deadline_s? clock=lognormal and clock=table have the key"),
    ]


@pytest.mark.slow
def test_a_key_of_other_choices_is_given_to_the_users_own_class_with_a_plus():
    assert keys_and_hints("data=custom", "data._target_=mine.make", "data.val_fraction=0", "data.bach_size=8") == [
        ("data.val_fraction", "+data.val_fraction=0 adds the key"),
        ("data.bach_size", "did you mean data.batch_size? +data.batch_size=8 adds the key"),
    ]


def test_a_choice_of_the_users_own_code_has_the_overrides_that_take_it():
    own = ["data=my_file.make", "model=mine", "algorithm=fedavgg", "sampler=my_file.Mine", "dataset=mnist"]
    assert keys_and_hints(*own) == [
        ("data", "data=custom data._target_=my_file.make takes one of your own"),
        ("model", "model=custom model._target_=my_file.NAME takes one of your own"),
        ("algorithm", "did you mean fedavg?"),
        ("sampler", ""),  # it has no choice `custom`
        ("dataset", "--help lists groups and common keys"),
    ]


def test_a_key_that_every_run_needs_cannot_be_removed():
    errors = keys_and_hints("~monitor", "~seed", "~eval", "~check", "~data", "~monitor.name")
    assert errors == [
        (f"~{key}", f"give another value: {key}=...") for key in ("monitor", "seed", "eval", "check", "data")
    ]


def test_an_unused_new_key_is_an_error():
    assert keys_and_hints("+foo=1", "++rouns=1", "+foo.bar=1", "+tag=a", "+model.x=${tag}") == [
        ("foo", ""),
        ("rouns", "did you mean schedule.rounds?"),
        ("foo.bar", ""),
    ]


def test_a_stage_of_the_channel_is_no_unused_key():
    stage = "my_codec.Half"
    assert keys_and_hints(f"+channel.half._target_={stage}", f"++channel.more={{_target_: {stage}}}") == []
    assert keys_and_hints(f"+chanel.half._target_={stage}") == [
        ("chanel.half._target_", f"did you mean +channel.half._target_={stage}?")
    ]


@pytest.mark.slow
def test_groups_of_the_users_own_folder_are_valid(tmp_path):
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "mine.yaml").write_text("rounds: 3\n")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "one.yaml").write_text("note: ${tag}\n")
    flags = ["--config-dir", str(tmp_path)]
    assert keys_and_hints(*flags, "schedule=mine") == []
    assert keys_and_hints("schedule=mine") != []
    assert keys_and_hints(*flags, "+study=one", "study.note=x", "+study.other=3", "+tag=3") == []
    assert keys_and_hints("+tag=3") != []


def test_another_primary_configuration_needs_every_top_key_of_ours(tmp_path):
    (tmp_path / "little.yaml").write_text("seed: 3\n")
    ((key, _),) = keys_and_hints("--config-dir", str(tmp_path), "--config-name", "little")
    assert key == "--config-name"


def test_the_help_names_only_existing_keys_and_commands():
    text = yaml.safe_load((config_dir() / "hydra" / "help" / "fedlit.yaml").read_text())["template"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        keys = set(flatten(to_plain(compose("config", ["algorithm=fedprox", "data=mnist"]))))
    names = set(re.findall(r"^  ([a-z_.]+)  ", text, re.MULTILINE))
    assert names - {"hydra.run.dir"} <= keys
    assert {"resume", "check", "schedule.quorum", "faults.on_error", "executor.workers"} <= names
    commands = set(re.findall(r"python -m fedlit\.(\w+)", text))
    assert commands == {path.stem for path in ROOT.glob("*.py")} - {"__init__", "__main__"}
    assert max(map(len, text.splitlines())) <= 80
