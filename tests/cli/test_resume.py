"""Resumed runs: values that can change, and folders without trust."""

import gc
import json
import logging
import os
import shlex
import signal
import sys
from contextlib import suppress
from functools import cache
from types import SimpleNamespace

import pytest
import yaml
from conftest import composed as compose_config
from filelock import FileLock

from fedlit.cli import command_line, resume, train
from fedlit.cli.command_line import config_dir
from fedlit.cli.hydra_job import HydraJob
from fedlit.cli.resume import resume_arguments, resume_command
from fedlit.cli.sweep.jobs import remove_untrained
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ServerState, Shared
from fedlit.core.model import Model
from fedlit.experiment import reporter, runner
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.observers import Observer
from fedlit.experiment.performance import gc_frozen, gc_paused
from fedlit.experiment.runner import run_experiment
from fedlit.runs.commands import quote, unquote
from fedlit.runs.keys import row_of
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.disk import DiskCheckpointer
from fedlit.server.client_store import ClientStateStore


@cache
def composed(*overrides):
    return to_plain(compose_config(*overrides))


@pytest.fixture(autouse=True)
def fast_compose(monkeypatch):
    """Compose with the cache of the tests."""
    monkeypatch.setattr(resume, "compose", lambda name, overrides: compose_config(*overrides))


def stopped_run(folder, *overrides):
    """The folder of a stopped run."""
    folder.mkdir(parents=True)
    (folder / "command.json").write_text(json.dumps({"overrides": overrides}))
    (folder / "config.yaml").write_text(yaml.safe_dump(composed(*overrides)))
    return folder


def errors_of(*arguments):
    with pytest.raises(ConfigErrors) as error:
        resume_arguments(arguments)
    return {problem.key: str(problem) for problem in error.value.errors}


def test_a_command_without_resume_stays_unchanged():
    for arguments in (["seed=3", "-m"], ["resume=null", "seed=3"], []):
        assert resume_arguments(arguments) == arguments


def test_the_runs_overrides_and_its_folder_are_used_again(tmp_path):
    run = stopped_run(tmp_path / "it's", "seed=3", "model=mlp")
    both = resume_arguments([f"resume={run}", "schedule.rounds=30", "--info"])
    assert both == ["--info", "seed=3", "model=mlp", "schedule.rounds=30", f"resume={quote(run)}",
                    f"hydra.run.dir={quote(run)}"]  # fmt: skip
    assert composed(*both[1:-1])["resume"] == str(run)
    assert unquote(both[-1]) == str(run)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            ["seed=3", "+trainer.max_time=null", "~observers.tensorboard"],
            ["seed=3", "schedule.rounds=30", "executor=processes", "executor.workers=2", "observers=none",
             "trainer.accelerator=gpu", "checkpoint.keep=5"],
        ),
        (["executor=processes", "executor.workers=2", "executor.threads=2"], ["executor=inline"]),
        (["executor=processes", "executor.threads=2"], ["executor.workers=3"]),
    ],
)  # fmt: skip
def test_rounds_executor_observers_and_device_can_change(tmp_path, old, new):
    assert resume_arguments([f"resume={stopped_run(tmp_path / 'run', *old)}", *new])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            ["seed=7", "executor.threads=2", "schedule.lr=cosine"],
            ["seed=42", "executor.threads=1", "schedule.rounds=30", "algorithm=fedprox", "+trainer.max_steps=3",
             "monitor.mode=min", "checkpoint.keep=3"],
            {"seed": "was 7 when the run began", "executor.threads": "was 2", "algorithm.proximal": "was 0.0",
             "trainer.max_steps": "was None", "monitor.mode": "was max",
             "schedule.rounds": "was 20; with schedule.lr=cosine"},
        ),
        ([], ["sed=7", "model=cnm"], {"sed": "did you mean seed?", "model": "must be one of"}),
        ([], ["hydra.run.dir=elsewhere"], {"hydra.run.dir": "the folder of the run to resume; leave it out"}),
    ],
)  # fmt: skip
def test_any_other_change_is_refused_by_its_key(tmp_path, old, new, expected):
    errors = errors_of(f"resume={stopped_run(tmp_path / 'run', *old)}", *new)
    assert errors.keys() == expected.keys()
    for key, text in expected.items():
        assert text in errors[key]


def test_a_run_with_a_missing_choice_is_refused(tmp_path):
    run = stopped_run(tmp_path / "run")
    (run / "command.json").write_text(json.dumps({"overrides": ["model=mine"]}))
    text = errors_of(f"resume={run}")["model"]
    assert "must be one of" in text
    assert "give the --config-dir that has it again" in text
    assert "--config-dir" not in errors_of(f"resume={run}", "model=mien")["model"]


def test_the_flags_of_a_run_are_needed_again_and_are_printed(tmp_path):
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text((config_dir() / "model" / "mlp.yaml").read_text())
    run, flag = stopped_run(tmp_path / "run", "model=mlp"), f"--config-dir={tmp_path / 'own'}"
    (run / "command.json").write_text(json.dumps({"overrides": ["model=mine"], "flags": [flag]}))
    errors = errors_of(f"resume={run}")
    assert errors.keys() == {"--config-dir"}
    assert errors["--config-dir"].endswith(f"was {tmp_path / 'own'} when the run began, and is missing now; add {flag}")
    assert resume_arguments([flag, f"resume={run}"])[:2] == [flag, "model=mine"]
    assert resume_command(run, composed(), [flag]) == f"python -m fedlit.train {flag} resume={run}"


def test_config_flags_are_the_flags_of_the_command_line():
    own = SimpleNamespace(provider="command-line", path="/own")
    sources = [SimpleNamespace(provider="main", path="/conf"), own]
    for name, more in (("config", []), ("mine.yaml", ["--config-name=mine"])):
        settings = SimpleNamespace(
            runtime=SimpleNamespace(config_sources=sources), job=SimpleNamespace(config_name=name)
        )
        assert command_line.config_flags(settings) == ["--config-dir=/own", *more]


def test_fewer_rounds_than_done_are_refused(tmp_path):
    run = stopped_run(tmp_path / "run")
    (run / "rounds.jsonl").write_text("{}\n" * 5)
    assert "is less than the 5 rounds done" in errors_of(f"resume={run}", "schedule.rounds=4")["schedule.rounds"]
    assert resume_arguments([f"resume={run}", "schedule.rounds=5"])


def test_keys_that_can_change():
    assert row_of("faults.max_lost_rounds").can_change
    assert not row_of("faults.on_error").can_change
    assert row_of("executor._target_").can_change
    assert row_of("observers.tensorboard._target_").can_change
    assert not row_of("executor.threads").can_change
    assert not row_of("schedule.rounds_more").can_change
    assert not row_of("checkpoints").can_change


def test_a_sweep_cannot_resume_one_run(tmp_path):
    assert "leave out -m" in errors_of("-m", f"resume={stopped_run(tmp_path / 'run')}")["resume"]


@pytest.mark.parametrize("missing", ["command.json", "config.yaml"])
def test_a_folder_without_a_run_is_refused(tmp_path, missing):
    assert "has no command.json" in errors_of(f"resume={tmp_path / 'nowhere'}")["resume"]
    run = stopped_run(tmp_path / "run")
    (run / missing).unlink()
    text = errors_of(f"resume={run}")["resume"]
    assert f"has no {missing} and no checkpoint" in text
    assert "give the run's whole command again" in text
    (run / "checkpoints" / "round-000001").mkdir(parents=True)
    assert "no checkpoint" not in errors_of(f"resume={run}")["resume"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("command.json", b"{"),
        ("command.json", b"[]"),
        ("command.json", b'{"overrides": [3]}'),
        ("command.json", b"\x80\x04N."),
        ("config.yaml", b"a: b: c"),
        ("config.yaml", b"- 1"),
        ("config.yaml", b"\xff\xfe\x00"),
        ("config.yaml", b"!!python/object/apply:os.system [exit]"),
    ],
)
def test_a_folder_with_files_of_another_program_is_refused(tmp_path, name, content):
    run = stopped_run(tmp_path / "run")
    (run / name).write_bytes(content)
    assert "that fedlit did not write" in errors_of(f"resume={run}")["resume"]


@pytest.mark.parametrize("bad", ["--config-dir=/tmp", "-m", "--cfg=job", " hydra.run.dir=/tmp", "a b"])
def test_a_runs_folder_cannot_add_flags(tmp_path, bad):
    run = stopped_run(tmp_path / "run")
    (run / "command.json").write_text(json.dumps({"overrides": [bad]}))
    assert errors_of(f"resume={run}")


def test_hydras_own_overrides_in_a_runs_folder_are_dropped(tmp_path):
    run = stopped_run(tmp_path / "run")
    overrides = ["hydra.run.dir=/tmp/x", "hydra/launcher=joblib", "hydra/launcher", "+hydra.job.env_set.A=1",
                 "++hydra.sweep.dir=x", "hydra/job_logging@hydra.job_logging=none", "resume=/other", "seed=42"]  # fmt: skip
    (run / "command.json").write_text(json.dumps({"overrides": overrides}))
    assert resume_arguments([f"resume={run}"])[0] == "seed=42"
    assert len(resume_arguments([f"resume={run}"])) == 3


UNTRUSTED = ["model=custom", "model._target_=os.system"]


def test_a_class_in_a_run_must_be_trusted_or_given_again(tmp_path, monkeypatch):
    run = stopped_run(tmp_path / "run", *UNTRUSTED)
    text = errors_of(f"resume={run}")["model._target_"]
    assert "not on the list" in text
    assert text.endswith("repeat it in the command, or set FEDLIT_ALLOW=MODULE")
    assert "not on the list" in errors_of(f"resume={run}", "checkpoint.keep=3")["model._target_"]


def test_a_cluster_in_a_run_must_be_given_again(tmp_path):
    """Its actors answer with pickles."""
    cluster = ["executor=ray", "executor.address='10.0.0.9:6379'"]
    run = stopped_run(tmp_path / "run", *cluster)
    text = errors_of(f"resume={run}", "checkpoint.keep=3")["executor.address"]
    assert "must be null or auto" in text
    assert text.endswith("repeat it in the command")
    assert resume_arguments([f"resume={run}", "executor.address='10.0.0.9:6379'"])[:2] == cluster
    assert resume_arguments([f"resume={run}", "executor.address=null"])[1] == "executor.address=null"


def test_a_users_own_class_that_is_given_again_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "mine_to_trust.py").write_text("class Model: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    overrides = ["model=custom", "model._target_=mine_to_trust.Model"]
    run = stopped_run(tmp_path / "run", *overrides)
    assert "model._target_" in errors_of(f"resume={run}")
    assert resume_arguments([f"resume={run}", *overrides])[:2] == overrides
    monkeypatch.setenv("FEDLIT_ALLOW", "mine_to_trust")
    assert resume_arguments([f"resume={run}"])[:2] == overrides


def test_the_printed_command_has_all_that_it_needs(tmp_path, monkeypatch):
    config = composed("model=custom", "model._target_=mine_to_trust.Model")
    expected = f"FEDLIT_ALLOW=mine_to_trust python -m fedlit.train resume='{tmp_path}/a b'"
    assert resume_command(tmp_path / "a b", config) == expected
    monkeypatch.setenv("FEDLIT_ALLOW", "mine_to_trust")  # set for one command alone, it is not set the next time
    assert resume_command(tmp_path / "a b", config) == expected
    monkeypatch.delenv("FEDLIT_ALLOW")
    assert resume_command(tmp_path, composed()) == f"python -m fedlit.train resume={tmp_path}"
    cluster = composed("executor=ray", "executor.address='10.0.0.9:6379'")
    expected = f"python -m fedlit.train 'executor.address='\"'\"'10.0.0.9:6379'\"'\"'' resume={tmp_path}"
    assert shlex.split(resume_command(tmp_path, cluster)) == shlex.split(expected)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs" / "runs" / "2026-01-01"


def test_auto_resumes_the_newest_unfinished_run_of_the_same_configuration(runs):
    newest = stopped_run(runs / "2", "seed=3")
    for name, overrides in {"1": ["seed=3"], "3": ["seed=4"], "4": ["seed=3"], "5": [], "6": ["seed=3"]}.items():
        stopped_run(runs / name, *overrides)
    for number, path in enumerate(sorted(runs.glob("*/config.yaml"))):
        os.utime(path, (number, number))
    (runs / "4" / "summary.json").touch()  # finished
    (runs / "6" / "config.yaml").write_text("a: b: c")  # of another program
    assert resume_arguments(["resume=auto", "seed=3"])[-1] == f"hydra.run.dir={quote(newest)}"
    assert resume_arguments(["resume=auto", "seed=3", "schedule.rounds=30"])[-1] == f"hydra.run.dir={quote(newest)}"
    with FileLock(newest / "lock"):
        assert resume_arguments(["resume=auto", "seed=3"])[-1] == f"hydra.run.dir={quote(runs / '1')}"


def test_auto_starts_a_new_run_if_there_is_no_run_to_resume(runs):
    assert resume_arguments(["resume=auto", "seed=3"]) == ["seed=3"]
    stopped_run(runs / "1", "schedule.lr=cosine")
    overrides = ["schedule.lr=cosine", "schedule.rounds=30"]  # other rates: another run
    assert resume_arguments(["resume=auto", *overrides]) == overrides


def test_auto_with_a_run_folder_considers_only_that_folder(runs, tmp_path):
    stopped_run(runs / "1")
    run_dir = f"hydra.run.dir={tmp_path / 'mine'}"
    assert resume_arguments(["resume=auto", run_dir]) == [run_dir]
    mine = stopped_run(tmp_path / "mine")
    assert resume_arguments(["resume=auto", run_dir])[-1] == f"hydra.run.dir={quote(mine)}"
    (mine / "summary.json").touch()  # finished, as the run will report
    assert resume_arguments(["resume=auto", run_dir])[-1] == f"hydra.run.dir={quote(mine)}"
    assert errors_of("resume=auto", run_dir, "seed=4")["seed"].startswith("seed=4: was 42 when the run began")
    stopped_run(tmp_path / "other", "seed=3")  # the new overrides are complete
    assert errors_of("resume=auto", f"hydra.run.dir={tmp_path / 'other'}")["seed"].startswith("seed=42: was 3 when")


def test_auto_reports_an_unknown_key(runs):
    assert "did you mean seed?" in errors_of("resume=auto", "sed=3")["sed"]


def test_quotes_do_not_change_a_value():
    for value in ("a b", "it's", "/x/y", ""):
        assert unquote(f"k={quote(value)}") == value
    assert unquote("k=a'b") == "a'b"
    assert unquote('k="a b"') == "a b"


def test_resume_in_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigErrors, match="give resume on the command line, not in a configuration file"):
        run_experiment({**composed(), "resume": "auto"}, tmp_path / "run", {}, 0.0)


def test_an_unwritable_run_folder_in_quotes_is_detected(tmp_path):
    (tmp_path / "file").touch()
    (error,) = train._check_command([f"hydra.run.dir='{tmp_path}/file/run'"], command_line.ParsedCommand([]))
    assert (error.key, "cannot be written" in error.problem) == ("hydra.run.dir", True)


def test_a_folder_of_a_run_in_another_process_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    with FileLock(folder / "lock"):
        remove_untrained(folder)
        assert folder.is_dir()
    remove_untrained(folder)
    assert not folder.exists()


def test_the_garbage_collector_ignores_older_objects_during_a_run():
    gc.unfreeze()
    with gc_frozen():
        assert gc.get_freeze_count() > 1000
        assert len(gc.get_objects()) < 1000
    assert gc.get_freeze_count() == 0


def test_the_garbage_collector_pauses_only_in_its_block():
    with suppress(ImportError), gc_paused(), gc_paused():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_only_one_process_can_run_in_a_folder(tmp_path):
    with FileLock(tmp_path / "lock"), pytest.raises(ConfigErrors, match="is in use by another process"):
        run_experiment(composed(), tmp_path, {}, 0.0)


def test_a_folder_with_a_run_is_refused_for_a_new_run(tmp_path):
    record = RoundRecord(number=1, cohort=(), metrics={})
    DiskCheckpointer(tmp_path, Retention()).commit(ServerState(1, Shared(Model({}, {}))), ClientStateStore(), record)
    with pytest.raises(ConfigErrors, match="holds a run already"):
        run_experiment(composed(), tmp_path, {}, 0.0)


def test_a_run_without_a_valid_checkpoint_is_an_error(tmp_path):
    run = stopped_run(tmp_path / "run")
    (run / "checkpoints" / "round-000001").mkdir(parents=True)
    quick = composed("data=synthetic", "partition=natural", "model=logistic", "observers=none", "data.clients=5")
    with pytest.raises(ConfigErrors, match="has no valid round: round-000001") as error:
        run_experiment({**quick, "resume": str(run)}, run, {}, 0.0)
    assert isinstance(error.value.errors[0], ConfigError)


QUICK = [
    "data=synthetic",
    "partition=natural",
    "data.clients=5",
    "model=logistic",
    "observers=none",
    "schedule.rounds=2",
]


class FailsAtClose(Observer):
    """An observer that fails when it is closed."""

    def close(self):
        raise OSError("full")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_adds_its_seconds_and_prints_the_rounds_left(tmp_path, monkeypatch, capsys):
    config, build, folder = composed(*QUICK), runner.build_run, tmp_path / "run"
    monkeypatch.setattr(runner, "build_run", lambda *arguments: (build(*arguments)[0], [FailsAtClose()]))
    monkeypatch.setattr(runner, "time", SimpleNamespace(time=lambda: 105.0))

    def summary():
        return json.loads((folder / "summary.json").read_text())

    run_experiment(config, folder, {}, 100.0)
    assert summary()["seconds"] == 5
    assert summary()["observers_failed"] == {"FailsAtClose": "OSError: full"}
    again = {**config, "resume": str(folder)}
    longer = {**again, "schedule": {**config["schedule"], "rounds": 3}}
    run_experiment({**again, "check": True}, folder, {}, 100.0)
    assert "is finished after 2 rounds" in capsys.readouterr().out
    run_experiment({**longer, "check": True}, folder, {}, 100.0)
    assert "3 rounds, 2 done, 1 left" in " ".join(capsys.readouterr().out.split())
    run_experiment(longer, folder, {}, 100.0)
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert summary()["seconds"] == pytest.approx(5 + sum(record["time/round_s"] for record in records[:2]))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function from arguments to the command's status and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
        status = 0
        try:
            train.main()
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err

    return run


def send_signal(number):
    return lambda *arguments, **keywords: os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "place"),
    [
        (signal.SIGINT, 130, (runner, "build_run")),
        (signal.SIGTERM, 143, (train, "_read_command")),
        (signal.SIGUSR1, 143, (HydraJob, "prepare")),
    ],
)
def test_a_signal_before_round_1_prints_one_line_and_leaves_no_folder(
    command, tmp_path, monkeypatch, number, status, place
):
    calls = []
    earlier = signal.signal(number, lambda number, frame: calls.append(number))
    monkeypatch.setattr(*place, send_signal(number))
    try:
        end, printed = command(*QUICK, "hydra.run.dir=run")
    finally:
        signal.signal(number, earlier)
    assert end == status
    assert calls == [number] * (number == signal.SIGUSR1)  # such as a scheduler's handler, which starts the job again
    assert printed == (
        f"fedlit: stopped by {number.name}; nothing was trained yet, so there is nothing to resume: "
        "run the command again\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_that_a_stopped_run_prints_resumes_it(command, tmp_path, monkeypatch):
    folder = tmp_path / "my own" / "model"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text((config_dir() / "model" / "logistic.yaml").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(reporter, "log_round", send_signal(signal.SIGTERM))
        status, printed = command("--config-dir", "my own", *QUICK, "model=mine", "hydra.run.dir=run")
    *_, line, resume_line = printed.splitlines()
    assert (status, line) == (
        143,
        "fedlit: stopped by SIGTERM; the last checkpoint is complete. To resume the run:",
    )
    words = shlex.split(resume_line)
    assert words[:3] == ["python", "-m", "fedlit.train"]
    status, printed = command(words[-1])
    assert status == 2
    assert "was " + str(folder.parent) in printed
    assert command(*words[3:])[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 2


def test_a_run_stopped_in_its_first_round_is_started_again(tmp_path):
    folder = stopped_run(tmp_path / "run")
    runtime = SimpleNamespace(config_sources=[], output_dir=str(folder))
    settings = SimpleNamespace(runtime=runtime, job=SimpleNamespace(config_name="config"))
    hint = HydraJob(compose_config(), settings).resume_hint()
    assert hint == f"no round was finished. To start the run again:\n  python -m fedlit.train resume={folder}"
