"""The jobs of a sweep: folders, status, and the final report."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.files import flatten, write_atomic
from fedlit.core.text.console import PlainConsole
from fedlit.core.text.escape import print_lines, shell_command
from fedlit.runs.commands import train_command
from fedlit.runs.folder import is_finished, read_config, read_failure, read_job
from fedlit.runs.keys import job_keys
from fedlit.runs.layout import CONFIG, FAILURE, HYDRA, INDEX, JOB, LOCK, LOG

CALL = "FEDLIT_CALL"
"""Environment variable of a job: the id of the sweep command that started it."""
SWEPT = "FEDLIT_SWEPT"
"""Environment variable of a job: the keys with several values in the sweep, separated by commas."""
TOTAL = "FEDLIT_JOBS"
"""Environment variable of a job: the number of jobs of the sweep."""
CORES = "FEDLIT_CORES"
"""Environment variable of a job: the number of cores that it may use."""


def job_name(config: Mapping[str, Any]) -> str:
    """A short hash of a configuration.

    The order of the keys does not matter, and 1 equals 1.0. Keys that do not name a job are left out.
    """
    values = sorted(
        (f".{key}", repr(int(value) if isinstance(value, float) and value.is_integer() else value))
        for key, value in flatten(job_keys(config)).items()
    )
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:10]


def _resolve_job_name(_root_: DictConfig) -> str:
    """The value of `${fedlit_job:}` in a configuration."""
    config = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    try:
        return job_name(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    except OmegaConfBaseException:  # the job will report the error; raised here, it would end the other jobs
        return job_name(OmegaConf.to_container(config))  # type: ignore[arg-type]


# At import, because a job may run in a process that another launcher started: there Hydra resolves the job's folder before any
# function of ours is called, and only the imports of this module have happened by then (when the job was unpickled).
OmegaConf.register_new_resolver("fedlit_job", _resolve_job_name, replace=True)


def write_job(
    folder: Path, overrides: Sequence[str], swept: Sequence[str], call: str | None, reasons: Sequence[str] = ()
) -> None:
    """Write the overrides of a job and the reasons of its failure.

    Args:
        folder: the job's folder.
        overrides: the job's own overrides.
        swept: those of them that differ between the jobs.
        call: id of the sweep command that started the job.
        reasons: reasons of the failure; without any, an earlier failure is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = {"overrides": list(overrides), "swept": list(swept), "call": call}
    write_atomic(folder / JOB, (json.dumps(job) + "\n").encode())
    if reasons:
        write_atomic(folder / FAILURE, (json.dumps({"reasons": list(reasons)}) + "\n").encode())
    else:
        (folder / FAILURE).unlink(missing_ok=True)


def job_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of a job without keys of the sweep."""
    return [text for text in overrides if text.lstrip("+~").split(".")[0] != "sweep"]


def swept_overrides(overrides: Sequence[str], keys: str) -> list[str]:
    """The overrides of a job that differ between the jobs.

    Args:
        overrides: the job's own overrides.
        keys: the keys with several values, separated by commas; all overrides are returned if they have none of them.
    """
    names = keys.split(",")
    swept = [text.lstrip("+") for text in overrides if text.lstrip("+~").partition("=")[0] in names]
    return swept or [text.lstrip("+") for text in overrides]


def can_resume(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return True if a folder holds a run of the configuration.

    Raises:
        ConfigErrors: if the folder holds a run of another configuration.
    """
    if not (folder / CONFIG).is_file():
        return False
    if job_name(read_config(folder)) != job_name(config):
        hint = "hydra.sweep.dir=OTHER starts another sweep"
        raise ConfigErrors([ConfigError("hydra.sweep.subdir", folder, "holds a run of another configuration", hint)])
    return True


def remove_untrained(folder: Path) -> None:
    """Remove the folder of a run that did not start.

    A folder with other files, or of a run in another process, stays.
    """
    with suppress(Timeout), FileLock(folder / LOCK, timeout=0):
        if {path.name for path in folder.iterdir()} <= {HYDRA, LOG, LOCK}:
            for handler in logging.getLogger().handlers[:]:
                if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(folder):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
            shutil.rmtree(folder)


def objective(summary: Mapping[str, Any]) -> float | None:
    """The sweeper's objective: the monitored metric of the best round."""
    return summary["best"]["metrics"].get(summary["monitor"])


@dataclass(frozen=True)
class JobStatus:
    """The status of a job.

    Args:
        folder: the job's folder.
        overrides: the job's own overrides.
        call: id of the sweep command that ran the job last.
        status: finished, failed or unfinished.
        reasons: reasons of a failure.
    """

    folder: Path
    overrides: tuple[str, ...]
    call: str
    status: str
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> JobStatus:
        """The status of the job in a folder."""
        job, reasons, status = read_job(folder), list[str](), "unfinished"
        if (folder / FAILURE).is_file():
            status, reasons = "failed", read_failure(folder)
        elif is_finished(folder):
            status = "finished"
        return cls(folder, tuple(job["overrides"]), job["call"], status, tuple(reasons))

    def command(self, flags: Sequence[str]) -> str:
        """The command that runs the job alone, in its folder."""
        return train_command(self.folder, self.overrides, flags)


def finish_sweep(sweep: Path, call: str, flags: Sequence[str]) -> bool:
    """Write a sweep's index and report, and print its jobs' status.

    Args:
        sweep: the sweep's folder.
        call: id of the sweep command.
        flags: flags that a job needs to run alone.

    Returns:
        True if all jobs of the command are finished.
    """
    if not sweep.is_dir():
        return True  # Hydra has printed why there is no folder
    statuses = sorted((JobStatus.of(path.parent) for path in sweep.rglob(JOB)), key=lambda status: status.overrides)
    index = {" ".join(job.overrides): job.folder.relative_to(sweep).as_posix() for job in statuses}
    write_atomic(sweep / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    if any(job.status == "finished" for job in statuses):
        _report(sweep)
        print_lines(shell_command(["tensorboard", "--logdir", sweep]), sys.stdout)
    own = [job for job in statuses if job.call == call]
    unfinished = [job for job in own if job.status != "finished"]
    done = f"{len(own) - len(unfinished)} of {len(own)} jobs are finished"
    print_lines(f"{done}; {sweep / INDEX} has the folder of each job", sys.stdout)
    if unfinished:
        problem = f"{len(unfinished)} of {len(own)} jobs are not finished; the command below each job runs it alone"
        print_lines(f"fedlit: {problem}")
    for job in unfinished:
        print_lines(f"  {' '.join(job.overrides) or job.folder} {job.status}")
        for reason in job.reasons:
            print_lines(f"      {reason}")
        print_lines(f"      {job.command(flags)}")
    return not unfinished


def _report(sweep: Path) -> None:
    """Write and print the report, or print why there is none."""
    from fedlit.reports.render.terminal import (
        print_report,  # here: SciPy and matplotlib take time, and a job needs none
    )
    from fedlit.reports.report import write_report

    try:
        print_report(write_report([sweep], sweep), sweep, PlainConsole())
    except ConfigErrors as error:
        print_lines(f"fedlit: no report: {error}")
