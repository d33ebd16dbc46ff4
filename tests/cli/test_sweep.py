"""Sweeps that survive failed jobs and resume with the same command."""

import json
import os
import shlex
import signal
import sys
import tempfile
import threading
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from fedlit.cli import command_line, train
from fedlit.cli.command_line import parse_command
from fedlit.cli.hydra_job import HydraJob
from fedlit.cli.sweep import checks, gpus, jobs, plan
from fedlit.cli.sweep.jobs import JobStatus, job_name
from fedlit.cli.sweep.plan import plan_sweep
from fedlit.core.errors import ConfigErrors
from fedlit.executors import processes, resources
from fedlit.experiment import runner
from fedlit.reports.render import figures
from fedlit.runs.sweep_job import SweepJob
from fedlit.server.checkpoint.disk import DiskCheckpointer

QUICK = ["debug=quick", "observers=none", "executor=inline"]


@pytest.fixture
def sweeps(tmp_path, monkeypatch, capsys):
    """A function from arguments to the command's status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "save_figures", lambda report, out: [])
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedlit", *arguments])
        try:
            train.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def commits(monkeypatch):
    """The rounds with a checkpoint, as (folder, round). `commits.before` is called before each checkpoint."""

    class Commits(list):
        def before(self, folder, round):
            pass

    rounds, commit = Commits(), DiskCheckpointer.commit

    def commit_and_note(self, state, store, record):
        rounds.before(self.folder, state.round)
        commit(self, state, store, record)
        rounds.append((self.folder.name, state.round))

    monkeypatch.setattr(DiskCheckpointer, "commit", commit_and_note)
    return rounds


def folders(path):
    """The sweep's folder, and the folder of each job by its overrides."""
    (folder,) = (path / "outputs" / "sweeps").iterdir()
    index = json.loads((folder / "index.json").read_text())
    return folder, {overrides.replace(" ".join(QUICK), "").strip(): folder / name for overrides, name in index.items()}


def summaries(index):
    return {overrides: json.loads((path / "summary.json").read_text()) for overrides, path in index.items()}


@pytest.mark.slow
def test_the_same_command_again_resumes_a_sweep(sweeps, commits, tmp_path, monkeypatch):
    results = []
    for module, name in ((runner, "run_experiment"), (jobs, "objective")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real: results.append(real(*a)) or results[-1])

    def lights_out(folder, round):
        if round == 2 and '"seed=2"' in (folder / "job.json").read_text():
            raise RuntimeError("the lights went out")

    commits.before = lights_out
    status, out, err = sweeps("-m", *QUICK, "seed=1,2,3")
    folder, index = folders(tmp_path)
    assert status == 1
    assert "2 of 3 jobs are finished" in out
    assert [line for line in out.splitlines() if line.startswith("job ")] == [
        f"job {n} of 3: seed={n}" for n in (1, 2, 3)
    ]
    assert "HYDRA" not in out
    assert "mean over seeds" in out
    assert json.loads((folder / "report.json").read_text())["groups"][0]["seeds"] == [1, 3]
    failure = json.loads((index["seed=2"] / "failure.json").read_text())
    assert failure == {"reasons": ["RuntimeError: the lights went out"]}
    assert f"python -m fedlit.train resume={index['seed=2'].relative_to(tmp_path)}" in err
    assert {seed for seed, path in index.items() if (path / "summary.json").exists()} == {"seed=1", "seed=3"}
    first = {seed: (index[seed] / "summary.json").read_bytes() for seed in ("seed=1", "seed=3")}
    commits.before = lambda *_: None
    commits.clear()
    assert len(results) == 2
    status, out, _ = sweeps("-m", "seed=4,3,2,1", *QUICK)
    assert status == 0
    assert "job 2 of 4: seed=3, finished before\njob 3 of 4: seed=2\njob 4 of 4: seed=1, finished before\n" in out
    assert folders(tmp_path)[0] == folder
    index = folders(tmp_path)[1]
    assert commits == [(index["seed=4"].name, 1), (index["seed=4"].name, 2), (index["seed=2"].name, 2)]
    assert not (index["seed=2"] / "failure.json").exists()
    assert {seed: (index[seed] / "summary.json").read_bytes() for seed in first} == first
    assert [results[3], results[5]] == [results[1], results[0]]  # a sweeper gets the results of finished jobs too
    assert None not in results
    by_seed = summaries(index)
    assert len({summary["digest"]["batches"] for summary in by_seed.values()}) == 4
    assert sweeps(*QUICK, "seed=2", "hydra.run.dir=alone")[0] == 0
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert (alone["state_sha256"], alone["digest"]) == (by_seed["seed=2"]["state_sha256"], by_seed["seed=2"]["digest"])


@pytest.mark.slow
def test_a_failed_job_can_be_run_alone_and_the_jobs_of_the_sweep_are_paired(sweeps, commits, tmp_path):
    def exit_first(folder, round):
        if '"algorithm=fedavg"' in (folder / "job.json").read_text():
            raise SystemExit("user code ended the program")

    arguments = ["-m", *QUICK, "algorithm=fedavg,fedprox", "schedule.local_steps=3", "sweep.name=mine"]
    commits.before = exit_first
    status, _, err = sweeps(*arguments)
    assert status == 1
    assert "1 of 2 jobs are not finished" in err
    commits.before = lambda *_: None
    (command,) = [shlex.split(line)[3:] for line in err.splitlines() if line.startswith("      python -m fedlit.train")]
    assert sweeps(*command)[0] == 0
    commits.clear()
    status, out, err = sweeps(*arguments)
    assert (status, err, commits) == (0, "", [])
    assert "2 of 2 jobs are finished" in out
    assert [path.name for path in (tmp_path / "outputs" / "sweeps").iterdir()] == ["mine"]
    one, other = summaries(folders(tmp_path)[1]).values()
    assert one["digest"] == other["digest"]
    assert one["state_sha256"] != other["state_sha256"]


@pytest.mark.slow
def test_a_signal_stops_the_sweep_and_the_same_command_resumes_it(sweeps, commits, tmp_path, monkeypatch):
    commits.before = lambda folder, round: os.kill(os.getpid(), signal.SIGTERM) if round == 2 else None
    status, out, err = sweeps("-m", *QUICK, "seed=1,2")
    assert status == 143
    assert "run the same command again to resume the sweep" in err
    assert "0 of 1 jobs are finished" in out
    commits.before = lambda *_: None
    earlier = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the sweep did not handle the signal"))
    with monkeypatch.context() as patch:  # between the rounds of two jobs, when no run handles it
        patch.setattr(runner, "check_disk_space", lambda run: os.kill(os.getpid(), signal.SIGTERM))
        assert sweeps("-m", *QUICK, "seed=1,2")[0] == 143
    signal.signal(signal.SIGTERM, earlier)
    assert sweeps("-m", *QUICK, "seed=1,2")[0] == 0
    names = [folders(tmp_path)[1][f"seed={seed}"].name for seed in (1, 2)]
    assert commits == [(names[0], 1), (names[0], 2), (names[1], 1), (names[1], 2)]


@pytest.mark.slow
def test_a_folder_of_another_configuration_is_unchanged_and_a_check_leaves_no_folder(sweeps, tmp_path):
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


def test_the_overrides_that_differ_name_a_job():
    overrides = ["+model.width=3", "algorithm=fedavg", "algorithm@algorithm.inner=scaffold", "seed=1"]
    assert jobs.swept_overrides(overrides, "seed,model.width") == ["model.width=3", "seed=1"]
    assert jobs.swept_overrides(overrides, "algorithm@algorithm.inner") == ["algorithm@algorithm.inner=scaffold"]
    assert jobs.swept_overrides(["+a=1", "b=2"], "") == ["a=1", "b=2"]


@pytest.mark.parametrize(("total", "title"), [("8", "job 3 of 8: seed=1"), (None, "job 3: seed=1")])
def test_the_title_of_a_job_counts_from_one(total, title):
    env_set = {"FEDLIT_SWEPT": "seed"} | ({"FEDLIT_JOBS": total} if total else {})
    settings = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        overrides=SimpleNamespace(task=["algorithm=fedavg", "seed=1", "sweep.name=x"]),
        job=SimpleNamespace(env_set=env_set, num=2),
        sweeper={"direction": "maximize"},
    )
    job = HydraJob(OmegaConf.create(), settings)
    assert job.sweep_job == SweepJob(3, title, is_trial=True)
    settings.mode = RunMode.RUN
    assert job.sweep_job is None


@pytest.mark.parametrize(("sweeper", "total"), [({}, 6), ({"direction": "maximize", "n_trials": 20}, 20)])
def test_a_sweep_tells_its_jobs_the_swept_keys_and_their_number(sweeper, total):
    parser = OverridesParser.create()
    overrides = parser.parse_overrides(["algorithm=fedavg", "+partition.alpha=0.1,1.0", "seed=1,2,3", "seed=4,5"])
    swept = [override for override in overrides if override.is_sweep_override()]
    hydra = {"sweep": {"dir": "here"}, "sweeper": sweeper, "launcher": {}}
    config = OmegaConf.create({"sweep": {"name": "x"}, "hydra": hydra})
    parsed = Namespace(config_dir=None, config_name=None)
    sweep = plan._make_sweep(parsed, config, overrides, swept, 6)
    assert "++hydra.job.env_set.FEDLIT_SWEPT='partition.alpha,seed'" in sweep.overrides
    assert f"++hydra.job.env_set.FEDLIT_JOBS='{total}'" in sweep.overrides


def test_the_order_of_keys_does_not_change_the_name_of_a_job():
    config = {"seed": 1, "partition": {"alpha": 1.0, "clients": 3}, "sweep": {"name": "a"}, "check": False}
    same = {"partition": {"clients": 3, "alpha": 1}, "seed": 1, "sweep": {"name": "b"}, "check": True, "resume": "x"}
    assert job_name(config) == job_name(same) == "4ed20035cd"
    others = [{**config, "seed": 2}, {**config, "partition": {}}, {**config, "seed": "1"}, {**config, "seed": True}]
    assert len({job_name(config), *map(job_name, others)}) == 5


def test_a_job_with_an_unresolvable_configuration_has_a_folder():
    config = OmegaConf.create({"a": "${no.such.key}", "hydra": {"sweep": {"subdir": "${fedlit_job:}"}}})
    assert len(config.hydra.sweep.subdir) == 10


def name_of(*arguments):
    """The name of a sweep from its command line, without composing."""
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    return plan.sweep_name(overrides, [override.key_or_group for override in overrides if override.is_sweep_override()])


def test_the_values_of_a_sweep_do_not_change_its_name():
    name = name_of("algorithm=fedavg", "partition.alpha=0.1,1.0", "seed=1,2,3")
    assert name.startswith("alpha-seed-")
    assert name_of("seed=3,4", "partition.alpha=2,0.1", "algorithm=fedavg") == name
    assert (
        name_of("seed=range(1,9)", "algorithm=fedavg", "partition.alpha=5,6", "check=true", "hydra.verbose=false")
        == name
    )
    others = [
        name_of("algorithm=fedavg", "partition.alpha=0.1,1.0", "seed=1"),
        name_of("algorithm=fedprox", "partition.alpha=0.1,1.0", "seed=1,2,3"),
        name_of("partition.alpha=0.1,1.0", "seed=1,2,3"),
        name_of("algorithm=fedavg,fedprox", "partition.alpha=0.1,1.0", "seed=1,2,3"),
    ]
    assert len({name, *others}) == 5


@pytest.mark.slow
def test_command_line_overrides_replace_the_sweep_of_an_experiment(monkeypatch):
    counts = []
    monkeypatch.setattr(plan, "_launcher_overrides", lambda config, num_jobs: counts.append(num_jobs) or [])
    names = []
    for override in ("seed=range(1,6)", "partition=iid"):
        sweep = plan_sweep(["-m", "experiment=noniid", override])
        assert sweep is not None
        names.append(sweep.folder.name)
    assert [name.rpartition("-")[0] for name in names] == ["partition-seed", "seed"]
    assert counts == [20, 3]


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ([], "outputs/sweeps/" + name_of("seed=1,2")),
        (["sweep.name=mine"], "outputs/sweeps/mine"),
        (["hydra.sweep.dir='a b/c'"], "a b/c"),
    ],
)
def test_a_sweeps_folder_is_its_name_or_the_users_choice(overrides, folder):
    sweep = plan_sweep(["-m", "seed=1,2", *overrides])
    assert sweep is not None
    assert sweep.folder.as_posix() == folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep.name=x"], [("sweep.name", "is only for a sweep")]),
        (
            ["-m", "sweep.name=a/b", "partition.alpha=interval(0,1)"],
            [("sweep.name", "must be letters"), ("partition.alpha", "is an interval")],
        ),
        (
            ["-m", "sweep.name=a,b", "check=true,false"],
            [("sweep.name", "a sweep needs one for all its jobs"), ("check", "a sweep needs one for all its jobs")],
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
def test_a_sweep_that_cannot_start_is_an_error(arguments, expected):
    with pytest.raises(ConfigErrors) as error:
        plan_sweep(arguments)
    errors = error.value.errors
    assert [problem.key for problem in errors] == [key for key, _ in expected]
    assert all(text in problem.problem for problem, (_, text) in zip(errors, expected, strict=True))


@pytest.mark.parametrize(("path", "keys"), [(None, ["hydra/launcher"]), ("/usr/bin/srun", [])])
def test_a_sweep_on_slurm_needs_slurm(monkeypatch, path, keys):
    monkeypatch.setattr(checks.shutil, "which", {"srun": path}.__getitem__)
    launcher = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}
    errors = checks.value_errors(search_config(sweep={}, hydra={"launcher": launcher}), [])
    assert [error.key for error in errors] == keys
    local = launcher["_target_"].replace("Slurm", "Local")
    assert not [*checks.value_errors(search_config(sweep={}, hydra={"launcher": {"_target_": local}}), [])]


def test_an_experiment_that_sweeps_an_unknown_key_is_an_error(tmp_path):
    (tmp_path / "experiment").mkdir()
    content = "# @package _global_\nhydra: {sweeper: {params: {partition.alpa: '1,2'}}}\n"
    (tmp_path / "experiment" / "odd.yaml").write_text(content)
    with pytest.raises(ConfigErrors, match=r"hydra\.sweeper\.params: .*'partition\.alpa'"):
        plan_sweep(["-m", f"--config-dir={tmp_path}", "experiment=odd"])


def search_config(**changes):
    config = {
        "monitor": {"name": "val/accuracy", "mode": "max"},
        "hydra": {"sweeper": {"direction": "maximize", "n_jobs": 2}, "launcher": {"n_jobs": -1}},
    }
    return OmegaConf.merge(OmegaConf.create(config), OmegaConf.create(changes))


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
def test_a_search_optimises_the_validation_metric(changes, keys):
    assert [error.key for error in checks.search_errors(search_config(**changes), [])] == keys


@pytest.mark.parametrize(
    ("available", "n_jobs", "search_jobs", "num_jobs", "parallel", "cores"),
    [
        (8, -1, None, 3, 3, 2),
        (8, -1, None, 20, 8, 1),
        (8, 4, None, 20, 4, 2),
        (2, 4, None, 9, 4, 1),
        (8, -1, 2, 1, 2, 4),
    ],
)
def test_parallel_jobs_share_the_cores(monkeypatch, available, n_jobs, search_jobs, num_jobs, parallel, cores):
    monkeypatch.setattr(resources, "available_cores", lambda: available)
    config = search_config(hydra={"launcher": {"n_jobs": n_jobs}, "sweeper": {"n_jobs": search_jobs}})
    overrides = plan._launcher_overrides(config, num_jobs)
    assert overrides == [f"hydra.launcher.n_jobs={parallel}", f"++hydra.job.env_set.FEDLIT_CORES='{cores}'"]
    assert plan._launcher_overrides(OmegaConf.create({"hydra": {"launcher": {}}}), num_jobs) == []


def test_workers_auto_uses_a_jobs_share_of_the_cores(monkeypatch):
    all_cores = processes.available_cores()
    monkeypatch.setenv("FEDLIT_CORES", "1")
    assert processes.available_cores() == len(processes.Processes().gpus(torch.device("cpu"))) == 1
    monkeypatch.setenv("FEDLIT_CORES", "1000")
    assert processes.available_cores() == all_cores


@pytest.mark.parametrize("share", ["abc", "0", "-1", "1.5", ""])
def test_a_share_that_is_no_number_is_an_error(monkeypatch, share):
    monkeypatch.setenv("FEDLIT_CORES", share)
    subject = f"FEDLIT_CORES={share}" if share else "FEDLIT_CORES"
    with pytest.raises(ConfigErrors, match=f"{subject}: must be a whole number of at least 1"):
        processes.available_cores()


def test_each_gpu_has_one_job_at_a_time_by_default(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(resources, "visible_gpus", lambda: ["0", "GPU-b"])
    monkeypatch.setattr(gpus, "POLL_S", 0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    with gpus.reserve_gpu(1, 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,GPU-b"
    is_reserved, names = threading.Event(), []

    def third(per_gpu):
        with gpus._lock_gpu(["0", "GPU-b"], per_gpu) as name:
            names.append(name)
            is_reserved.set()

    with gpus.reserve_gpu(3, 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        with gpus.reserve_gpu(3, 1):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
            thread = threading.Thread(target=third, args=(1,))
            thread.start()
            assert not is_reserved.wait(0.05)
            third(2)
            assert names == ["0"]
        thread.join(5)
        assert names == ["0", "GPU-b"]


def test_the_printed_command_of_a_job_can_be_copied(tmp_path):
    folder = tmp_path / "a b"
    job = JobStatus(folder, ("data.mean=[0.1, 0.2]", "seed=1"), "x", "failed")
    words = shlex.split(job.command(["--config-dir=c d"]))
    assert words[:3] == ["python", "-m", "fedlit.train"]
    assert words[3:] == ["--config-dir=c d", "data.mean=[0.1, 0.2]", "seed=1", f"hydra.run.dir={folder}"]
    folder.mkdir()
    (folder / "command.json").touch()
    assert shlex.split(job.command([]))[3:] == [f"resume={folder}"]


@pytest.mark.parametrize("override", ["hydra.run.dir=elsewhere", "schedule.rounds=3"])
def test_the_check_of_a_single_run_composes_once(monkeypatch, override):
    calls, real = [], command_line.compose
    for module in (command_line, plan, checks):
        monkeypatch.setattr(module, "compose", lambda *a, **k: calls.append(a) or real(*a, **k))
    monkeypatch.setattr(sys, "argv", ["fedlit", "seed=3", override])
    assert train._read_command() is None
    assert calls == [("config", [])]


@pytest.mark.slow
def test_a_job_can_run_alone_though_its_configuration_starts_a_sweep(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    content = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    (tmp_path / "experiment" / "many.yaml").write_text(content)
    sweep = plan_sweep([f"--config-dir={tmp_path}", "experiment=many"])
    assert sweep is not None
    assert sweep.flags == (f"--config-dir={tmp_path}", "hydra.mode=RUN")
    for arguments in ([f"--config-dir={tmp_path}", "experiment=many", "seed=1,2"], ["hydra.mode=MULTIRUN", "seed=1,2"]):
        assert plan_sweep(arguments, parse_command(arguments).mode) is not None
    job = [*sweep.flags, "experiment=many", "seed=2"]
    assert plan_sweep(job) is None
    monkeypatch.setattr(
        "fedlit.cli.resume.resume_arguments", lambda arguments: [sweep.flags[0], "experiment=many", "seed=2"]
    )
    monkeypatch.setattr(sys, "argv", ["fedlit", f"resume={tmp_path}"])
    assert train._read_command() is None


def test_the_example_of_a_search_composes_with_optuna():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra sweep")
    sweep = plan_sweep(["hparams_search=digits"])
    assert sweep is not None
    assert sweep.folder.name.startswith("lr-local_epochs-")


@pytest.mark.slow
def test_joblib_runs_jobs_in_their_own_processes(sweeps, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra sweep")
    status, out, err = sweeps("-m", "hydra/launcher=joblib", *QUICK, "schedule.clients_per_round=1,2,300")
    assert status == 1
    assert "2 of 3 jobs are finished" in out
    assert "schedule.clients_per_round=300 failed" in err
    assert sweeps("-m", *QUICK, "schedule.clients_per_round=1,2")[0] == 0  # with another launcher
    assert len(folders(tmp_path)[1]) == 3
