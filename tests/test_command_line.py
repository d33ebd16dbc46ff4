"""What was typed is checked as a whole, before Hydra stops at the first mistake."""

import pytest

from fedlit.command_line import check, unwritable


def found(*arguments):
    mistakes, _ = check(arguments)
    return [(mistake.key, mistake.remedy) for mistake in mistakes]


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
    ],
)
def test_wrong_names_are_told_together_each_with_the_nearest(wrong):
    told = found(*(argument for argument, _, _ in wrong), *["schedule.rounds=9", "sampler=uniform"])
    assert [key for key, _ in told] == [key for _, key, _ in wrong]
    for (_, given), (_, _, remedy) in zip(told, wrong, strict=True):
        assert remedy in given


def test_what_every_run_needs_cannot_be_left_out():
    wrong = found("~monitor", "~seed", "~eval", "~check", "~data", "~monitor.name")
    assert wrong == [(f"~{key}", f"give another: {key}=...") for key in ("monitor", "seed", "eval", "check", "data")]


def test_a_new_key_that_nobody_reads_is_told():
    assert found("+foo=1", "++rouns=1", "+foo.bar=1", "+tag=a", "+model.x=${tag}") == [
        ("foo", ""),
        ("rouns", "did you mean schedule.rounds?"),
        ("foo.bar", ""),
    ]


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
    assert unwritable(tmp_path / "a" / "b") == ""
    assert not (tmp_path / "a").exists()
    assert "ot a directory" in unwritable(tmp_path / "file" / "below")
    assert unwritable(tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
