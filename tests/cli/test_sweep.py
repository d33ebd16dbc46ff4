"""A sweep survives its own failures, and typed again goes on instead of beginning anew."""

import json
import os
import shlex
import signal
import sys
import tempfile
import threading

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fedlit.cli import command_line, train
from fedlit.cli.command_line import parse_command
from fedlit.cli.sweep import jobs
from fedlit.cli.sweep import plan as sweep
from fedlit.cli.sweep.jobs import JobStatus, job_name
from fedlit.cli.sweep.plan import plan_sweep
from fedlit.core.errors import ConfigErrors
from fedlit.executors import processes
from fedlit.experiment import runner as running
from fedlit.reports.render import figures
from fedlit.server.checkpoint.disk import DiskCheckpointer

QUICK = ["debug=quick", "observers=none", "executor=inline"]


@pytest.fixture
def sweeps(tmp_path, monkeypatch, capsys):
    """Types a command; its status, and what it said on the standard output and error. Reports have no pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "save_figures", lambda found, out: [])
    monkeypatch.setattr(sys, "path", list(sys.path))

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
        try:
            train.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return typed


@pytest.fixture
def commits(monkeypatch):
    """The rounds that are committed, with their folders; `commits.wrong` may go wrong before one is."""

    class Commits(list):
        def wrong(self, folder, round):
            pass

    done, commit = Commits(), DiskCheckpointer.commit

    def spied(self, state, store, record):
        done.wrong(self.folder, state.round)
        commit(self, state, store, record)
        done.append((self.folder.name, state.round))

    monkeypatch.setattr(DiskCheckpointer, "commit", spied)
    return done


def folders(path):
    """The sweep's folder and, by what was typed for each job, the job's."""
    (folder,) = (path / "outputs" / "sweeps").iterdir()
    index = json.loads((folder / "index.json").read_text())
    return folder, {overrides.replace(" ".join(QUICK), "").strip(): folder / name for overrides, name in index.items()}


def summaries(index):
    return {overrides: json.loads((path / "summary.json").read_text()) for overrides, path in index.items()}


@pytest.mark.slow
def test_a_sweep_is_continued_and_not_repeated(sweeps, commits, tmp_path, monkeypatch):
    worth = []
    for module, name in ((running, "train"), (jobs, "objective")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real: worth.append(real(*a)) or worth[-1])

    def lights_out(folder, round):
        if round == 2 and '"seed=2"' in (folder / "job.json").read_text():
            raise RuntimeError("the lights went out")

    commits.wrong = lights_out
    status, out, err = sweeps("-m", *QUICK, "seed=1,2,3")
    folder, index = folders(tmp_path)
    assert status == 1
    assert "2 of 3 jobs are finished" in out
    assert "mean over seeds" in out
    assert json.loads((folder / "report.json").read_text())["groups"][0]["seeds"] == [1, 3]
    failure = json.loads((index["seed=2"] / "failure.json").read_text())
    assert failure == {"reasons": ["RuntimeError: the lights went out"]}
    assert f"python -m fedlit.train resume={index['seed=2'].relative_to(tmp_path)}" in err
    assert {seed for seed, path in index.items() if (path / "summary.json").exists()} == {"seed=1", "seed=3"}
    first = {seed: (index[seed] / "summary.json").read_bytes() for seed in ("seed=1", "seed=3")}
    commits.wrong = lambda *_: None
    commits.clear()
    assert len(worth) == 2
    assert sweeps("-m", "seed=4,3,2,1", *QUICK)[0] == 0
    assert folders(tmp_path)[0] == folder
    index = folders(tmp_path)[1]
    assert commits == [(index["seed=4"].name, 1), (index["seed=4"].name, 2), (index["seed=2"].name, 2)]
    assert not (index["seed=2"] / "failure.json").exists()
    assert {seed: (index[seed] / "summary.json").read_bytes() for seed in first} == first
    assert [worth[3], worth[5]] == [worth[1], worth[0]]  # what a sweeper is told of jobs that were there
    assert None not in worth
    found = summaries(index)
    assert len({summary["digest"]["batches"] for summary in found.values()}) == 4
    assert sweeps(*QUICK, "seed=2", "hydra.run.dir=alone")[0] == 0
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert (alone["state_sha256"], alone["digest"]) == (found["seed=2"]["state_sha256"], found["seed=2"]["digest"])


@pytest.mark.slow
def test_a_failed_job_runs_alone_by_its_command_then_the_sweep_is_finished_and_its_jobs_are_paired(
    sweeps, commits, tmp_path
):
    def not_at_first(folder, round):
        if '"algorithm=fedavg"' in (folder / "job.json").read_text():
            raise SystemExit("something of the user's own has ended the program")

    typed = ["-m", *QUICK, "algorithm=fedavg,fedprox", "schedule.local_steps=3", "sweep.name=mine"]
    commits.wrong = not_at_first
    status, _, err = sweeps(*typed)
    assert status == 1
    assert "1 of 2 jobs are not finished" in err
    commits.wrong = lambda *_: None
    (command,) = [shlex.split(line)[3:] for line in err.splitlines() if line.startswith("      python -m fedlit.train")]
    assert sweeps(*command)[0] == 0
    commits.clear()
    status, out, err = sweeps(*typed)
    assert (status, err, commits) == (0, "", [])
    assert "2 of 2 jobs are finished" in out
    assert [path.name for path in (tmp_path / "outputs" / "sweeps").iterdir()] == ["mine"]
    one, other = summaries(folders(tmp_path)[1]).values()
    assert one["digest"] == other["digest"]
    assert one["state_sha256"] != other["state_sha256"]


@pytest.mark.slow
def test_a_signal_stops_the_sweep_which_goes_on_when_it_is_typed_again(sweeps, commits, tmp_path, monkeypatch):
    commits.wrong = lambda folder, round: os.kill(os.getpid(), signal.SIGTERM) if round == 2 else None
    status, out, err = sweeps("-m", *QUICK, "seed=1,2")
    assert status == 143
    assert "typed again, the sweep goes on where it was" in err
    assert "0 of 1 jobs are finished" in out
    commits.wrong = lambda *_: None
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the sweep did not heed the signal"))
    with monkeypatch.context() as patch:  # between the rounds of two jobs, when no run heeds it
        patch.setattr(running, "check_disk_space", lambda run: os.kill(os.getpid(), signal.SIGTERM))
        assert sweeps("-m", *QUICK, "seed=1,2")[0] == 143
    signal.signal(signal.SIGTERM, before)
    assert sweeps("-m", *QUICK, "seed=1,2")[0] == 0
    names = [folders(tmp_path)[1][f"seed={seed}"].name for seed in (1, 2)]
    assert commits == [(names[0], 1), (names[0], 2), (names[1], 1), (names[1], 2)]


@pytest.mark.slow
def test_a_folder_of_another_configuration_is_left_alone_and_check_leaves_none(sweeps, tmp_path):
    assert sweeps("-m", *QUICK, "seed=1", "hydra.sweep.dir=here", "hydra.sweep.subdir=one")[0] == 0
    before = (tmp_path / "here" / "one" / "summary.json").read_bytes()
    status, _, err = sweeps("-m", *QUICK, "seed=2", "hydra.sweep.dir=here", "hydra.sweep.subdir=one")
    assert status == 1
    assert "holds a run of another configuration" in err
    assert (tmp_path / "here" / "one" / "summary.json").read_bytes() == before
    status, out, err = sweeps("-m", "check=true", *QUICK, "schedule.clients_per_round=1,300")
    assert out.count("plan: nothing was trained") == 1
    assert status == 1
    assert "schedule.clients_per_round=300 failed" in err
    assert "Traceback" not in err
    assert len([path for path in (tmp_path / "outputs" / "sweeps").glob("*/*") if path.is_dir()]) == 1


def test_a_job_has_the_same_name_whatever_the_order_of_its_keys():
    config = {"seed": 1, "partition": {"alpha": 1.0, "clients": 3}, "sweep": {"name": "a"}, "check": False}
    same = {"partition": {"clients": 3, "alpha": 1}, "seed": 1, "sweep": {"name": "b"}, "check": True, "resume": "x"}
    assert job_name(config) == job_name(same)
    others = [{**config, "seed": 2}, {**config, "partition": {}}, {**config, "seed": "1"}, {**config, "seed": True}]
    assert len({job_name(config), *map(job_name, others)}) == 5


def test_a_job_whose_configuration_cannot_be_resolved_has_a_folder_all_the_same():
    config = OmegaConf.create({"a": "${no.such.key}", "hydra": {"sweep": {"subdir": "${fedlit_job:}"}}})
    assert len(config.hydra.sweep.subdir) == 10


def named(*arguments):
    """The name of a sweep, from what was typed alone; `planned` composes too."""
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    return sweep.sweep_name(
        overrides, [override.key_or_group for override in overrides if override.is_sweep_override()]
    )


def test_a_sweep_has_the_same_name_whatever_its_values():
    name = named("algorithm=fedavg", "partition.alpha=0.1,1.0", "seed=1,2,3")
    assert name.startswith("alpha-seed-")
    assert named("seed=3,4", "partition.alpha=2,0.1", "algorithm=fedavg") == name
    assert (
        named("seed=range(1,9)", "algorithm=fedavg", "partition.alpha=5,6", "check=true", "hydra.verbose=false") == name
    )
    others = [
        named("algorithm=fedavg", "partition.alpha=0.1,1.0", "seed=1"),
        named("algorithm=fedprox", "partition.alpha=0.1,1.0", "seed=1,2,3"),
        named("partition.alpha=0.1,1.0", "seed=1,2,3"),
        named("algorithm=fedavg,fedprox", "partition.alpha=0.1,1.0", "seed=1,2,3"),
    ]
    assert len({name, *others}) == 5


@pytest.mark.slow
def test_what_is_typed_takes_the_place_of_what_an_experiment_sweeps(monkeypatch):
    counted = []
    monkeypatch.setattr(sweep, "_shares", lambda config, jobs: counted.append(jobs) or [])
    names = []
    for typed in ("seed=range(1,6)", "partition=iid"):
        made = plan_sweep(["-m", "experiment=noniid", typed])
        assert made is not None
        names.append(made.folder.name)
    assert [name.rpartition("-")[0] for name in names] == ["partition-seed", "seed"]
    assert counted == [20, 3]


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        ([], "outputs/sweeps/" + named("seed=1,2")),
        (["sweep.name=mine"], "outputs/sweeps/mine"),
        (["hydra.sweep.dir='a b/c'"], "a b/c"),
    ],
)
def test_a_sweeps_folder_is_its_name_or_what_was_typed(typed, folder):
    made = plan_sweep(["-m", "seed=1,2", *typed])
    assert made is not None
    assert made.folder.as_posix() == folder


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["sweep.name=x"], [("sweep.name", "is about the jobs of a sweep")]),
        (
            ["-m", "sweep.name=a/b", "partition.alpha=interval(0,1)"],
            [("sweep.name", "must be letters"), ("partition.alpha", "is an interval")],
        ),
        (
            ["-m", "sweep.name=a,b", "check=true,false"],
            [("sweep.name", "has one in the whole sweep"), ("check", "has one in the whole sweep")],
        ),
        (["-m", "sweep.jobs_per_gpu=0"], [("sweep.jobs_per_gpu", "at least 1")]),
        (["-m", "sweep.jobs_per_gpu=two"], [("sweep.jobs_per_gpu", "a whole number")]),
        (["-m", "+sweep.nme=x"], [("sweep.nme", "is not an argument")]),
        (["-m", "hydra/launcher=joblb"], [("hydra/launcher", "must be one of basic")]),
        (["-m", "hydra/sweeper=opt"], [("hydra/sweeper", "must be one of basic")]),
        (["-m", "seed=1,2", "hydra.sweep.dir=${nowhere}"], [("hydra.sweep.dir", "nowhere")]),
        (["-m", "partition=dirichlet,iid", "partition.alpha=1,2"], [("partition=iid", "'partition.alpha'")]),
    ],
)
def test_a_sweep_that_cannot_be_begun_is_a_mistake(arguments, wanted):
    with pytest.raises(ConfigErrors) as wrong:
        plan_sweep(arguments)
    assert [mistake.key for mistake in wrong.value.errors] == [key for key, _ in wanted]
    assert all(said in mistake.problem for mistake, (_, said) in zip(wrong.value.errors, wanted, strict=True))


def test_an_experiment_that_sweeps_a_key_that_is_not_there_is_a_mistake(tmp_path):
    (tmp_path / "experiment").mkdir()
    content = "# @package _global_\nhydra: {sweeper: {params: {partition.alpa: '1,2'}}}\n"
    (tmp_path / "experiment" / "odd.yaml").write_text(content)
    with pytest.raises(ConfigErrors, match=r"hydra\.sweeper\.params=: .*'partition\.alpa'"):
        plan_sweep(["-m", f"--config-dir={tmp_path}", "experiment=odd"])


def searching(**changes):
    made = {
        "monitor": {"name": "val/accuracy", "mode": "max"},
        "hydra": {"sweeper": {"direction": "maximize", "n_jobs": 2}, "launcher": {"n_jobs": -1}},
    }
    return OmegaConf.merge(OmegaConf.create(made), OmegaConf.create(changes))


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, []),
        ({"monitor": {"mode": "min"}}, ["hydra.sweeper.direction"]),
        ({"hydra": {"sweeper": {"direction": "minimize"}}}, ["hydra.sweeper.direction"]),
        ({"monitor": {"name": None}}, ["monitor.name"]),
        ({"monitor": {"mode": "min"}, "hydra": {"sweeper": {"direction": "minimize"}}}, []),
    ],
)
def test_a_search_is_for_the_validation_metric(changes, keys):
    assert [mistake.key for mistake in sweep._wrong_search(searching(**changes), [])] == keys


@pytest.mark.parametrize(
    ("given", "asked", "search", "count", "at_once", "share"),
    [
        (8, -1, None, 3, 3, 2),
        (8, -1, None, 20, 8, 1),
        (8, 4, None, 20, 4, 2),
        (2, 4, None, 9, 4, 1),
        (8, -1, 2, 1, 2, 4),
    ],
)
def test_jobs_that_run_at_the_same_time_share_the_cores(monkeypatch, given, asked, search, count, at_once, share):
    monkeypatch.setattr(processes, "available_cores", lambda: given)
    config = searching(hydra={"launcher": {"n_jobs": asked}, "sweeper": {"n_jobs": search}})
    told = sweep._shares(config, count)
    assert told == [f"hydra.launcher.n_jobs={at_once}", f"++hydra.job.env_set.FEDLIT_CORES='{share}'"]
    assert sweep._shares(OmegaConf.create({"hydra": {"launcher": {}}}), count) == []


def test_a_share_of_the_cores_is_what_workers_auto_takes(monkeypatch):
    all_of_them = processes.available_cores()
    monkeypatch.setenv("FEDLIT_CORES", "1")
    assert processes.available_cores() == len(processes.Processes().gpus(processes.CPU)) == 1
    monkeypatch.setenv("FEDLIT_CORES", "1000")
    assert processes.available_cores() == all_of_them


@pytest.mark.parametrize("share", ["abc", "0", "-1", "1.5", ""])
def test_a_share_that_is_no_number_is_a_mistake(monkeypatch, share):
    monkeypatch.setenv("FEDLIT_CORES", share)
    with pytest.raises(ConfigErrors, match=f"FEDLIT_CORES={share}: must be a whole number of at least 1"):
        processes.available_cores()


def test_each_gpu_has_one_job_at_a_time_unless_told(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(processes, "visible_gpus", lambda: ["0", "GPU-b"])
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    with jobs.one_gpu(1, 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-b"
    came, seen = threading.Event(), []

    def third(per_gpu):
        with jobs._held(["0", "GPU-b"], per_gpu) as name:
            seen.append(name)
            came.set()

    with jobs.one_gpu(3, 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        with jobs.one_gpu(3, 1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
            waits = threading.Thread(target=third, args=(1,))
            waits.start()
            assert not came.wait(0.05)
            third(2)
            assert seen == ["0"]
        waits.join(5)
        assert seen == ["0", "GPU-b"]


def test_the_command_of_a_job_alone_can_be_typed_as_it_is(tmp_path):
    folder = tmp_path / "a b"
    job = JobStatus(folder, ("data.mean=[0.1, 0.2]", "seed=1"), "x", "failed")
    words = shlex.split(job.command(["--config-dir=c d"]))
    assert words[:3] == ["python", "-m", "fedlit.train"]
    assert words[3:] == ["--config-dir=c d", "data.mean=[0.1, 0.2]", "seed=1", f"hydra.run.dir='{folder}'"]
    folder.mkdir()
    (folder / "command.json").touch()
    assert shlex.split(job.command([]))[3:] == [f"resume={folder}"]


@pytest.mark.parametrize("typed", ["hydra.run.dir=elsewhere", "schedule.rounds=3"])
def test_one_run_is_composed_once_to_be_understood(monkeypatch, typed):
    found, real = [], command_line.compose
    for module in (command_line, sweep):
        monkeypatch.setattr(module, "compose", lambda *a, **k: found.append(a) or real(*a, **k))
    monkeypatch.setattr(sys, "argv", ["fedlit", "seed=3", typed])
    assert train._understood() is None
    assert found == [("config", [])]


@pytest.mark.slow
def test_a_job_runs_alone_though_its_configuration_begins_a_sweep_by_itself(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    content = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    (tmp_path / "experiment" / "many.yaml").write_text(content)
    made = plan_sweep([f"--config-dir={tmp_path}", "experiment=many"])
    assert made is not None
    assert made.flags == (f"--config-dir={tmp_path}", "hydra.mode=RUN")
    for typed in ([f"--config-dir={tmp_path}", "experiment=many", "seed=1,2"], ["hydra.mode=MULTIRUN", "seed=1,2"]):
        assert plan_sweep(typed, parse_command(typed).mode) is not None
    job = [*made.flags, "experiment=many", "seed=2"]
    assert plan_sweep(job) is None
    monkeypatch.setattr("fedlit.cli.resume.rewritten", lambda typed: [made.flags[0], "experiment=many", "seed=2"])
    monkeypatch.setattr(sys, "argv", ["fedlit", f"resume={tmp_path}"])
    assert train._understood() is None


def test_the_example_of_a_search_is_composed_where_optuna_is():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra sweep")
    made = plan_sweep(["hparams_search=digits"])
    assert made is not None
    assert made.folder.name.startswith("lr-local_epochs-")


@pytest.mark.slow
def test_joblib_runs_jobs_in_processes_of_their_own(sweeps, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra sweep")
    status, out, err = sweeps("-m", "hydra/launcher=joblib", *QUICK, "schedule.clients_per_round=1,2,300")
    assert status == 1
    assert "2 of 3 jobs are finished" in out
    assert "schedule.clients_per_round=300 failed" in err
    assert sweeps("-m", *QUICK, "schedule.clients_per_round=1,2")[0] == 0  # by whatever launcher
    assert len(folders(tmp_path)[1]) == 3
