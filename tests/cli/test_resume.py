"""What may change when a run is gone on with, and what a run's folder may not make of a command line."""

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
from conftest import composed as chosen
from filelock import FileLock

from fedlit.cli import command_line, resume, train
from fedlit.cli.command_line import config_dir, quote, unquote
from fedlit.cli.resume import may_change, resume_arguments, resume_command
from fedlit.cli.sweep.jobs import remove_untrained
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ServerState
from fedlit.experiment import runner as running
from fedlit.experiment.config.build import to_plain
from fedlit.experiment.performance import gc_frozen, gc_paused
from fedlit.experiment.runner import run_experiment as begin
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.disk import DiskCheckpointer, Retention
from fedlit.server.client_store import ClientStateStore


@cache
def composed(*overrides):
    return to_plain(chosen(*overrides))


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """What is composed again and again is composed as tests do."""
    monkeypatch.setattr(resume, "compose", lambda name, overrides: chosen(*overrides))


def a_run(folder, *overrides):
    """A folder as a run leaves it that was stopped."""
    folder.mkdir(parents=True)
    (folder / "command.json").write_text(json.dumps({"overrides": overrides}))
    (folder / "config.yaml").write_text(yaml.safe_dump(composed(*overrides)))
    return folder


def found(*arguments):
    with pytest.raises(ConfigErrors) as error:
        resume_arguments(arguments)
    return {mistake.key: str(mistake) for mistake in error.value.errors}


def test_a_command_that_resumes_nothing_stays_as_it_is():
    for arguments in (["seed=3", "-m"], ["resume=null", "seed=3"], []):
        assert resume_arguments(arguments) == arguments


def test_what_was_typed_is_typed_again_and_the_folder_is_the_runs(tmp_path):
    run = a_run(tmp_path / "it's", "seed=3", "model=mlp")
    both = resume_arguments([f"resume={run}", "schedule.rounds=30", "--info"])
    assert both == ["--info", "seed=3", "model=mlp", "schedule.rounds=30", f"resume={quote(run)}",
                    f"hydra.run.dir={quote(run)}"]  # fmt: skip
    assert composed(*both[1:-1])["resume"] == str(run)
    assert unquote(both[-1]) == str(run)


@pytest.mark.parametrize(
    ("before", "typed"),
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
def test_rounds_executor_observers_and_device_may_change(tmp_path, before, typed):
    assert resume_arguments([f"resume={a_run(tmp_path / 'run', *before)}", *typed])


@pytest.mark.parametrize(
    ("before", "typed", "said"),
    [
        (
            ["seed=7", "executor.threads=2", "schedule.lr=cosine"],
            ["seed=42", "executor.threads=1", "schedule.rounds=30", "algorithm=fedprox", "+trainer.max_steps=3",
             "monitor.mode=min", "checkpoint.keep=3"],
            {"seed": "was 7 when the run began", "executor.threads": "was 2", "algorithm.proximal": "was 0.0",
             "trainer.max_steps": "was None", "monitor.mode": "was max",
             "schedule.rounds": "was 20, and with schedule.lr=cosine"},
        ),
        ([], ["sed=7", "model=cnm"], {"sed": "did you mean seed?", "model": "must be one of"}),
        ([], ["hydra.run.dir=elsewhere"], {"hydra.run.dir": "where the run is that is gone on with; leave it out"}),
    ],
)  # fmt: skip
def test_any_other_difference_is_refused_by_its_key(tmp_path, before, typed, said):
    mistakes = found(f"resume={a_run(tmp_path / 'run', *before)}", *typed)
    assert mistakes.keys() == said.keys()
    for key, text in said.items():
        assert text in mistakes[key]


def test_a_run_whose_choices_are_not_there_any_more_is_refused(tmp_path):
    run = a_run(tmp_path / "run")
    (run / "command.json").write_text(json.dumps({"overrides": ["model=mine"]}))
    said = found(f"resume={run}")["model"]
    assert "must be one of" in said
    assert "the --config-dir that has it has to be typed again" in said
    assert "--config-dir" not in found(f"resume={run}", "model=mien")["model"]


def test_flags_with_which_a_run_began_have_to_be_typed_again_and_are_printed(tmp_path):
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "mine.yaml").write_text((config_dir() / "model" / "mlp.yaml").read_text())
    run, flag = a_run(tmp_path / "run", "model=mlp"), f"--config-dir={tmp_path / 'own'}"
    (run / "command.json").write_text(json.dumps({"overrides": ["model=mine"], "flags": [flag]}))
    said = found(f"resume={run}")
    assert said.keys() == {"--config-dir"}
    assert said["--config-dir"].endswith(f"was {tmp_path / 'own'} when the run began, and is not typed now; add {flag}")
    assert resume_arguments([flag, f"resume={run}"])[:2] == [flag, "model=mine"]
    assert resume_command(run, composed(), [flag]) == f"python -m fedlit.train {flag} resume={run}"


def test_flags_are_those_that_hydra_was_given():
    own = SimpleNamespace(provider="command-line", path="/own")
    sources = [SimpleNamespace(provider="main", path="/conf"), own]
    for name, more in (("config", []), ("mine.yaml", ["--config-name=mine"])):
        settings = SimpleNamespace(
            runtime=SimpleNamespace(config_sources=sources), job=SimpleNamespace(config_name=name)
        )
        assert command_line.config_flags(settings) == ["--config-dir=/own", *more]


def test_fewer_rounds_than_are_done_are_refused(tmp_path):
    run = a_run(tmp_path / "run")
    (run / "rounds.jsonl").write_text("{}\n" * 5)
    assert "is less than the 5 rounds done" in found(f"resume={run}", "schedule.rounds=4")["schedule.rounds"]
    assert resume_arguments([f"resume={run}", "schedule.rounds=5"])


def test_keys_that_may_change():
    assert may_change("faults.max_lost_rounds")
    assert not may_change("faults.on_error")
    assert may_change("executor._target_")
    assert may_change("observers.tensorboard._target_")
    assert not may_change("executor.threads")
    assert not may_change("schedule.rounds_more")
    assert not may_change("checkpoints")


def test_several_runs_are_not_resumed_at_once(tmp_path):
    assert "leave out -m" in found("-m", f"resume={a_run(tmp_path / 'run')}")["resume"]


@pytest.mark.parametrize("missing", ["command.json", "config.yaml"])
def test_a_folder_that_is_no_runs_is_refused(tmp_path, missing):
    assert "has no command.json" in found(f"resume={tmp_path / 'nowhere'}")["resume"]
    run = a_run(tmp_path / "run")
    (run / missing).unlink()
    said = found(f"resume={run}")["resume"]
    assert f"has no {missing} and no round that was kept" in said
    assert "type the run's whole command again" in said
    (run / "checkpoints" / "round-000001").mkdir(parents=True)
    assert "no round" not in found(f"resume={run}")["resume"]


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
def test_a_folder_whose_files_are_not_ours_is_refused(tmp_path, name, content):
    run = a_run(tmp_path / "run")
    (run / name).write_bytes(content)
    assert "not one of ours" in found(f"resume={run}")["resume"]


@pytest.mark.parametrize("bad", ["--config-dir=/tmp", "-m", "--cfg=job", " hydra.run.dir=/tmp", "a b"])
def test_what_stands_in_a_runs_folder_is_no_flag(tmp_path, bad):
    run = a_run(tmp_path / "run")
    (run / "command.json").write_text(json.dumps({"overrides": [bad]}))
    assert found(f"resume={run}")


def test_what_is_hydras_in_a_runs_folder_is_not_typed_again(tmp_path):
    run = a_run(tmp_path / "run")
    sly = ["hydra.run.dir=/tmp/x", "hydra/launcher=joblib", "hydra/launcher", "+hydra.job.env_set.A=1", "++hydra.sweep.dir=x",
           "hydra/job_logging@hydra.job_logging=none", "resume=/other", "seed=42"]  # fmt: skip
    (run / "command.json").write_text(json.dumps({"overrides": sly}))
    assert resume_arguments([f"resume={run}"])[0] == "seed=42"
    assert len(resume_arguments([f"resume={run}"])) == 3


OWN = ["model=custom", "model._target_=os.system"]


def test_what_a_run_names_has_to_be_trusted_or_typed_again(tmp_path, monkeypatch):
    run = a_run(tmp_path / "run", *OWN)
    said = found(f"resume={run}")["model._target_"]
    assert "not on the list" in said
    assert said.endswith("type it again, or FEDLIT_ALLOW=MODULE")
    assert "not on the list" in found(f"resume={run}", "checkpoint.keep=3")["model._target_"]


def test_a_name_of_ones_own_that_is_typed_again_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "mine_to_trust.py").write_text("class Model: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ["model=custom", "model._target_=mine_to_trust.Model"]
    run = a_run(tmp_path / "run", *own)
    assert "model._target_" in found(f"resume={run}")
    assert resume_arguments([f"resume={run}", *own])[:2] == own
    monkeypatch.setenv("FEDLIT_ALLOW", "mine_to_trust")
    assert resume_arguments([f"resume={run}"])[:2] == own


def test_the_printed_command_says_what_it_needs(tmp_path, monkeypatch):
    config = composed("model=custom", "model._target_=mine_to_trust.Model")
    wanted = f"FEDLIT_ALLOW=mine_to_trust python -m fedlit.train resume='{tmp_path}/a b'"
    assert resume_command(tmp_path / "a b", config) == wanted
    monkeypatch.setenv("FEDLIT_ALLOW", "mine_to_trust")  # given in front of the command, it is not there the next time
    assert resume_command(tmp_path / "a b", config) == wanted
    monkeypatch.delenv("FEDLIT_ALLOW")
    assert resume_command(tmp_path, composed()) == f"python -m fedlit.train resume={tmp_path}"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs" / "runs" / "2026-01-01"


def test_auto_takes_the_newest_unfinished_run_of_the_same_configuration(runs):
    wanted = a_run(runs / "2", "seed=3")
    for name, overrides in {"1": ["seed=3"], "3": ["seed=4"], "4": ["seed=3"], "5": [], "6": ["seed=3"]}.items():
        a_run(runs / name, *overrides)
    for number, path in enumerate(sorted(runs.glob("*/config.yaml"))):
        os.utime(path, (number, number))
    (runs / "4" / "summary.json").touch()  # finished
    (runs / "6" / "config.yaml").write_text("a: b: c")  # of another program
    assert resume_arguments(["resume=auto", "seed=3"])[-1] == f"hydra.run.dir={quote(wanted)}"
    assert resume_arguments(["resume=auto", "seed=3", "schedule.rounds=30"])[-1] == f"hydra.run.dir={quote(wanted)}"
    with FileLock(wanted / "lock"):
        assert resume_arguments(["resume=auto", "seed=3"])[-1] == f"hydra.run.dir={quote(runs / '1')}"


def test_auto_begins_where_there_is_nothing_to_go_on_with(runs):
    assert resume_arguments(["resume=auto", "seed=3"]) == ["seed=3"]
    a_run(runs / "1", "schedule.lr=cosine")
    begun = ["schedule.lr=cosine", "schedule.rounds=30"]  # other rates: another run
    assert resume_arguments(["resume=auto", *begun]) == begun


def test_auto_in_a_folder_that_is_named_looks_there_alone(runs, tmp_path):
    a_run(runs / "1")
    where = f"hydra.run.dir={tmp_path / 'mine'}"
    assert resume_arguments(["resume=auto", where]) == [where]
    mine = a_run(tmp_path / "mine")
    assert resume_arguments(["resume=auto", where])[-1] == f"hydra.run.dir={quote(mine)}"
    (mine / "summary.json").touch()  # finished, as the run will say
    assert resume_arguments(["resume=auto", where])[-1] == f"hydra.run.dir={quote(mine)}"
    assert found("resume=auto", where, "seed=4")["seed"].startswith("seed=4: was 42 when the run began")
    a_run(tmp_path / "other", "seed=3")  # what is typed now is all of it
    assert found("resume=auto", f"hydra.run.dir={tmp_path / 'other'}")["seed"].startswith("seed=42: was 3 when")


def test_auto_tells_a_mistake_as_a_mistake(runs):
    assert "did you mean seed?" in found("resume=auto", "sed=3")["sed"]


def test_a_value_in_quotes_is_the_same_value():
    for value in ("a b", "it's", "/x/y", ""):
        assert unquote(f"k={quote(value)}") == value
    assert unquote("k=a'b") == "a'b"
    assert unquote('k="a b"') == "a b"


def test_resume_that_stands_in_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigErrors, match="it has to be typed"):
        begin({**composed(), "resume": "auto"}, tmp_path / "run", {}, 0.0)


def test_a_run_folder_in_quotes_is_looked_at_before_round_1(tmp_path):
    (tmp_path / "file").touch()
    (mistake,) = train._mistakes([f"hydra.run.dir='{tmp_path}/file/run'"], command_line.ParsedCommand([]))
    assert (mistake.key, "cannot be written" in mistake.problem) == ("hydra.run.dir", True)


def test_a_folder_that_another_process_is_at_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    with FileLock(folder / "lock"):
        remove_untrained(folder)
        assert folder.is_dir()
    remove_untrained(folder)
    assert not folder.exists()


def test_while_a_run_lasts_the_collector_leaves_alone_what_was_there_before():
    gc.unfreeze()
    with gc_frozen():
        assert gc.get_freeze_count() > 1000
        assert len(gc.get_objects()) < 1000
    assert gc.get_freeze_count() == 0


def test_the_collector_rests_in_the_block_alone_whatever_happens_in_it():
    with suppress(ImportError), gc_paused(), gc_paused():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_one_process_at_a_time(tmp_path):
    with FileLock(tmp_path / "lock"), pytest.raises(ConfigErrors, match="another process's at the moment"):
        begin(composed(), tmp_path, {}, 0.0)


def test_a_folder_that_holds_a_run_takes_no_new_one(tmp_path):
    DiskCheckpointer(tmp_path, Retention()).commit(
        ServerState(1, {}), ClientStateStore(), RoundRecord(1, (), {}, (), None, "", None)
    )
    with pytest.raises(ConfigErrors, match="holds a run already"):
        begin(composed(), tmp_path, {}, 0.0)


def test_rounds_none_of_which_holds_are_a_mistake(tmp_path):
    run = a_run(tmp_path / "run")
    (run / "checkpoints" / "round-000001").mkdir(parents=True)
    quick = composed("data=synthetic", "partition=natural", "model=logistic", "observers=none", "data.clients=5")
    with pytest.raises(ConfigErrors, match="has no round that holds") as error:
        begin({**quick, "resume": str(run)}, run, {}, 0.0)
    assert isinstance(error.value.errors[0], ConfigError)


QUICK = [
    "data=synthetic",
    "partition=natural",
    "data.clients=5",
    "model=logistic",
    "observers=none",
    "schedule.rounds=2",
]


class Closing:
    """Watches nothing, and fails at its end."""

    start = round = end = lambda *given: None

    def close(self):
        raise OSError("full")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_gone_on_with_sums_its_seconds_and_says_what_is_left(tmp_path, monkeypatch, capsys):
    config, build, folder = composed(*QUICK), running.build_run, tmp_path / "run"
    monkeypatch.setattr(running, "build_run", lambda *given: (build(*given)[0], [Closing()]))
    monkeypatch.setattr(running, "time", SimpleNamespace(time=lambda: 105.0))

    def summary():
        return json.loads((folder / "summary.json").read_text())

    begin(config, folder, {}, 100.0)
    assert summary()["seconds"] == 5
    assert summary()["observers_failed"] == {"Closing": "OSError: full"}
    again = {**config, "resume": str(folder)}
    further = {**again, "schedule": {**config["schedule"], "rounds": 3}}
    begin({**again, "check": True}, folder, {}, 100.0)
    assert "is finished after 2 rounds" in capsys.readouterr().out
    begin({**further, "check": True}, folder, {}, 100.0)
    assert "3 rounds, 2 done, 1 left" in " ".join(capsys.readouterr().out.split())
    begin(further, folder, {}, 100.0)
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert summary()["seconds"] == pytest.approx(5 + sum(record["time/round_s"] for record in records[:2]))


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """The command in a folder of its own: its status and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
        status = 0
        try:
            train.main()
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err

    return go


def strike(number):
    return lambda *given, **named: os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "place"),
    [
        (signal.SIGINT, 130, (running, "build")),
        (signal.SIGTERM, 143, (train, "_understood")),
        (signal.SIGUSR1, 143, (train, "_one")),
    ],
)
def test_a_signal_before_round_1_ends_it_in_one_line_and_leaves_nothing(
    typed, tmp_path, monkeypatch, number, status, place
):
    told = []
    before = signal.signal(number, lambda number, frame: told.append(number))
    monkeypatch.setattr(*place, strike(number))
    try:
        ended, said = typed(*QUICK, "hydra.run.dir=run")
    finally:
        signal.signal(number, before)
    assert ended == status
    assert told == [number] * (number == signal.SIGUSR1)  # such as a scheduler's, which begins the job again
    assert said == (
        f"fedlit: stopped by {number.name}; nothing was trained yet, and there is nothing to go on with: "
        "type the command again\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_stopped_run_prints_goes_on_by_copy_and_paste(typed, tmp_path, monkeypatch):
    own = tmp_path / "my own" / "model"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text((config_dir() / "model" / "logistic.yaml").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(running, "_log", strike(signal.SIGTERM))
        ended, said = typed("--config-dir", "my own", *QUICK, "model=mine", "hydra.run.dir=run")
    line, command = said.splitlines()[-2:]
    assert (ended, line) == (
        143,
        "fedlit: stopped by SIGTERM; the last round that was kept is whole. To go on:",
    )
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "fedlit.train"]
    ended, said = typed(words[-1])
    assert ended == 2
    assert "was " + str(own.parent) in said
    assert typed(*words[3:])[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 2


def test_a_run_stopped_in_its_first_round_is_begun_again(tmp_path):
    settings = SimpleNamespace(runtime=SimpleNamespace(config_sources=[]), job=SimpleNamespace(config_name="config"))
    said = train._how_to_go_on(a_run(tmp_path / "run"), composed(), settings)
    assert said == f"no round was done yet. To begin it:\n  python -m fedlit.train resume={tmp_path / 'run'}"
