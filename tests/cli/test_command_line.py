"""What was typed is checked as a whole, before Hydra stops at the first mistake."""

import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import fedlit
from fedlit.cli.command_line import config_dir, parse_command, write_error
from fedlit.core.files import flatten
from fedlit.experiment.config.build import to_plain

ROOT = Path(fedlit.__file__).parent


def found(*arguments):
    mistakes = parse_command(arguments).errors
    return [(mistake.key, mistake.hint) for mistake in mistakes]


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
def test_what_is_right_passes(arguments):
    assert found(*arguments) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
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
            ("seed=1,2", "seed", "-m runs each of them"),
            ("algorithm=fedavg,fedprox", "algorithm", "-m runs each of them"),
        ],
        [("seed", "seed", "write key=value"), ("a b=c=", "a b=c=", "write key=value")],
        [("--config-dir=/nowhere", "--config-dir", "name one that holds groups")],
        [("--config-name=confgi", "--config-name", "did you mean config?")],
        [("--config-path=x", "--config-path", "--config-dir=FOLDER")],
        [("--cfg=job", "--cfg", "leave -m away")],
    ],
)
def test_wrong_names_are_told_together_each_with_the_nearest(wrong):
    several = ["-m"] if wrong[0][0] == "--cfg=job" else []
    told = found(*(argument for argument, _, _ in wrong), *several, *["schedule.rounds=9", "sampler=uniform"])
    assert [key for key, _ in told] == [key for _, key, _ in wrong]
    for (_, given), (_, _, remedy) in zip(told, wrong, strict=True):
        assert remedy in given


@pytest.mark.slow
def test_a_key_of_other_choices_names_them_and_the_choice_that_is_there():
    known = ["clock.deadline_s=5", "faults.plans.drop.probability=0.3", "partition.alpha=0.1", "executor.workers=2"]
    mistakes = parse_command(["partition=shards", "executor=inline", *known, "clock.dedline_s=5"]).errors
    assert [(mistake.problem, mistake.hint) for mistake in mistakes] == [
        ("is not a key of clock=none", "clock=lognormal and clock=table have it"),
        ("is not a key of faults=none", "faults=drop has it"),
        (
            "is not a key of partition=shards",
            "partition=dirichlet, partition=dirichlet_0.1, partition=dirichlet_0.5, partition=dirichlet_5, "
            "partition=dirichlet_client and partition=quantity have it",
        ),
        ("is not a key of executor=inline", "executor=auto and executor=processes have it"),
        ("is not a key of the configuration", "a new key is added by +clock.dedline_s=5"),
    ]


def test_what_every_run_needs_cannot_be_left_out():
    wrong = found("~monitor", "~seed", "~eval", "~check", "~data", "~monitor.name")
    assert wrong == [(f"~{key}", f"give another: {key}=...") for key in ("monitor", "seed", "eval", "check", "data")]


def test_a_new_key_that_nobody_reads_is_told():
    assert found("+foo=1", "++rouns=1", "+foo.bar=1", "+tag=a", "+model.x=${tag}") == [
        ("foo", ""),
        ("rouns", "did you mean schedule.rounds?"),
        ("foo.bar", ""),
    ]


@pytest.mark.slow
def test_a_folder_of_the_users_own_groups_counts(tmp_path):
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "mine.yaml").write_text("rounds: 3\n")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "one.yaml").write_text("note: ${tag}\n")
    mine = ["--config-dir", str(tmp_path)]
    assert found(*mine, "schedule=mine") == []
    assert found("schedule=mine") != []
    assert found(*mine, "+study=one", "study.note=x", "+study.other=3", "+tag=3") == []
    assert found("+tag=3") != []


def test_another_primary_configuration_needs_all_that_ours_has(tmp_path):
    (tmp_path / "little.yaml").write_text("seed: 3\n")
    ((key, _),) = found("--config-dir", str(tmp_path), "--config-name", "little")
    assert key == "--config-name"


def test_a_folder_that_cannot_be_written_is_known_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "file").touch()
    assert write_error(tmp_path / "a" / "b") == ""
    assert not (tmp_path / "a").exists()
    assert "ot a directory" in write_error(tmp_path / "file" / "below")
    assert write_error(tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_help_names_keys_and_commands_that_there_are():
    text = yaml.safe_load((config_dir() / "hydra" / "help" / "fedlit.yaml").read_text())["template"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        keys = set(flatten(to_plain(compose("config", ["algorithm=fedprox", "data=mnist"]))))
    named = set(re.findall(r"^  ([a-z_.]+)  ", text, re.MULTILINE))
    assert named - {"hydra.run.dir"} <= keys
    assert {"resume", "check", "schedule.quorum", "faults.on_error", "executor.workers"} <= named
    commands = set(re.findall(r"python -m fedlit\.(\w+)", text))
    assert commands == {"train", *(p.stem for p in ROOT.glob("*.py") if "ArgumentParser(" in p.read_text())}
    assert max(map(len, text.splitlines())) <= 80
