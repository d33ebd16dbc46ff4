"""The jobs of a sweep: which folder each has, what has become of it, and what it may use while others run."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fedlit.cli.command_line import quote
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.files import flatten, write_atomic
from fedlit.runs.layout import COMMAND, FAILURE, INDEX, JOB, SUMMARY

CALL, CORES = "FEDLIT_CALL", "FEDLIT_CORES"
NOT_COUNTED = ("sweep", "resume", "check", "traceback")
"""Keys that do not make another job of it."""


def job_name(config: Mapping[str, Any]) -> str:
    """A short hash of a configuration: the same in whatever order its keys stand, and for 1 and 1.0."""
    counted = flatten({key: value for key, value in config.items() if key not in NOT_COUNTED})
    values = sorted(
        (f".{key}", repr(int(value) if isinstance(value, float) and value.is_integer() else value))
        for key, value in counted.items()
    )
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:10]


def _job_name(_root_: DictConfig) -> str:
    config = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    try:
        return job_name(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    except OmegaConfBaseException:  # the job will say what is wrong; raised here, it would end the other jobs
        return job_name(OmegaConf.to_container(config))  # type: ignore[arg-type]


OmegaConf.register_new_resolver(
    "fedlit_job", _job_name, replace=True
)  # where a job is unpickled this module is imported


def write_job(folder: Path, overrides: Sequence[str], call: str | None, reasons: Sequence[str] = ()) -> None:
    """Notes which job a folder is of and, if it did not come to its end, why."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {"overrides": list(overrides), "call": call}
    write_atomic(folder / JOB, (json.dumps(job) + "\n").encode())
    if reasons:
        write_atomic(folder / FAILURE, (json.dumps({"reasons": list(reasons)}) + "\n").encode())
    else:
        (folder / FAILURE).unlink(missing_ok=True)


def job_overrides(overrides: Sequence[str]) -> list[str]:
    """What was typed for a job, without what is the whole sweep's."""
    return [text for text in overrides if text.lstrip("+~").split(".")[0] != "sweep"]


def can_resume(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether there is something to go on with.

    Raises:
        Mistakes: if the folder is of a run with another configuration.
    """
    if not (folder / "config.yaml").is_file():
        return False
    if job_name(yaml.safe_load((folder / "config.yaml").read_bytes())) != job_name(config):
        remedy = "hydra.sweep.dir=OTHER begins another sweep"
        raise ConfigErrors([ConfigError("hydra.sweep.subdir", folder, "holds a run of another configuration", remedy)])
    return True


def read_summary(folder: Path) -> Mapping[str, Any] | None:
    """The summary of a run that came to its end."""
    return json.loads((folder / SUMMARY).read_bytes()) if (folder / SUMMARY).is_file() else None


def remove_untrained(folder: Path) -> None:
    """Removes what Hydra made for a run that never began, and only that; what another process is at stays."""
    with suppress(Timeout), FileLock(folder / "lock", timeout=0):
        if {path.name for path in folder.iterdir()} <= {".hydra", "train.log", "lock"}:
            for handler in logging.getLogger().handlers[:]:
                if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(folder):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
            shutil.rmtree(folder)


def objective(summary: Mapping[str, Any]) -> float | None:
    """What the run gave a sweeper: the monitored metric of the best round."""
    return summary["best"]["metrics"].get(summary["monitor"])


@dataclass(frozen=True)
class JobStatus:
    """What has become of a job.

    Args:
        folder: of the job.
        overrides: what was typed for it.
        call: the command that was at it last.
        status: finished, failed or unfinished.
        reasons: why it failed.
    """

    folder: Path
    overrides: tuple[str, ...]
    call: str
    status: str
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> JobStatus:
        """That of the job in a folder."""
        job, reasons, status = json.loads((folder / JOB).read_bytes()), (), "unfinished"
        if (folder / FAILURE).is_file():
            status, reasons = "failed", tuple(json.loads((folder / FAILURE).read_bytes())["reasons"])
        elif (folder / SUMMARY).is_file():
            status = "finished"
        return cls(folder, tuple(job["overrides"]), job["call"], status, reasons)

    def command(self, flags: Sequence[str]) -> str:
        """What to type to run the job alone, in its folder."""
        folder = self.folder if re.fullmatch(r"[\w./-]+", str(self.folder)) else quote(self.folder)
        words = [*flags, *self.overrides, f"hydra.run.dir={folder}"]
        if (self.folder / COMMAND).is_file():
            words = [*flags, f"resume={self.folder}"]
        return f"python -m fedlit.train {shlex.join(words)}"


def finish_sweep(sweep: Path, call: str, flags: Sequence[str]) -> bool:
    """Writes the sweep's index, tells what has become of the jobs of a call, and returns whether all are finished."""
    if not sweep.is_dir():
        return True  # Hydra said why there is none
    found = [JobStatus.of(path.parent) for path in sweep.rglob(JOB)]
    outcomes = sorted(found, key=lambda outcome: outcome.overrides)
    index = {" ".join(outcome.overrides): outcome.folder.relative_to(sweep).as_posix() for outcome in outcomes}
    write_atomic(sweep / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    if any(outcome.status == "finished" for outcome in outcomes):
        _report(sweep)
    mine = [outcome for outcome in outcomes if outcome.call == call]
    left = [outcome for outcome in mine if outcome.status != "finished"]
    print(f"{len(mine) - len(left)} of {len(mine)} jobs are finished; {sweep / INDEX} says where each is")
    if left:
        print(
            f"fedlit: {len(left)} of {len(mine)} jobs are not finished; each runs alone by its command", file=sys.stderr
        )
    for outcome in left:
        print(f"  {' '.join(outcome.overrides) or outcome.folder} {outcome.status}", file=sys.stderr)
        for reason in outcome.reasons:
            print(f"      {reason}", file=sys.stderr)
        print(f"      {outcome.command(flags)}", file=sys.stderr)
    return not left


def _report(sweep: Path) -> None:
    """Writes the report on all that is finished in a sweep, and shows it; why there is none is told."""
    from fedlit.reports.report import (  # here: SciPy and matplotlib take time, and a job needs neither
        print_report,
        write_report,
    )

    try:
        print_report(write_report([sweep], sweep), sweep, Console())
    except ConfigErrors as mistakes:
        print(f"fedlit: no report: {mistakes}", file=sys.stderr)
