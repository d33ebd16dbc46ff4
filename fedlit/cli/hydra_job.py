"""One call of Hydra's task function: its inputs, errors and interruption."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fedlit.cli.command_line import config_flags
from fedlit.cli.sweep import jobs
from fedlit.core.errors import ConfigErrors, RunFailure, print_config_errors
from fedlit.core.text.escape import print_lines
from fedlit.experiment.config.optimizer import log_dropped_arguments, run_values
from fedlit.experiment.config.plain import to_plain
from fedlit.experiment.signals import Interrupted, StopRequest, clear_frames
from fedlit.runs.folder import is_finished, read_summary
from fedlit.runs.layout import COMMAND, FAILURE
from fedlit.runs.sweep_job import SweepJob

log = logging.getLogger("fedlit")


@dataclass(frozen=True)
class HydraJob:
    """A single run, or one job of a sweep.

    Args:
        config: the configuration, without Hydra's own part.
        settings: Hydra's own part of the configuration.
    """

    config: DictConfig
    settings: Any

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.settings.runtime.output_dir)

    @property
    def is_in_sweep(self) -> bool:
        """True for a job of a sweep."""
        return self.settings.mode == RunMode.MULTIRUN

    @property
    def sweep_job(self) -> SweepJob | None:
        """The job's place in its sweep; None for a single run."""
        if not self.is_in_sweep:
            return None
        is_trial = self.settings.sweeper.get("direction") is not None
        return SweepJob(self.settings.job.num + 1, self.title, is_trial)

    @property
    def overrides(self) -> list[str]:
        """The command-line overrides of the job, without keys of the sweep."""
        task = self.settings.overrides.task  # its texts with ${...} are not interpolations
        overrides: Any = OmegaConf.to_container(task, resolve=False) if OmegaConf.is_config(task) else task
        return jobs.job_overrides(overrides) if self.is_in_sweep else overrides

    @property
    def swept(self) -> list[str]:
        """The overrides that differ between the jobs of the sweep."""
        return jobs.swept_overrides(self.overrides, self.settings.job.env_set.get(jobs.SWEPT, ""))

    @property
    def title(self) -> str:
        """The number of a sweep's job with the overrides that differ."""
        total = self.settings.job.env_set.get(jobs.TOTAL)
        return f"job {self.settings.job.num + 1}{f' of {total}' if total else ''}: {' '.join(self.swept)}"

    @property
    def flags(self) -> list[str]:
        """The flags that the job's configuration needs."""
        return config_flags(self.settings)

    @property
    def parallel_gpu_jobs(self) -> int:
        """The number of parallel jobs on GPUs; 1 on a CPU."""
        has_gpu = self.is_in_sweep and self.config.trainer.accelerator != "cpu"
        return self.settings.launcher.get("n_jobs", 1) if has_gpu else 1

    def prepare(self) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
        """Resolve the configuration, and find earlier results of a sweep's job.

        Returns:
            The resolved configuration as plain values, with `resume` set for an unfinished job; and the summary of a finished
            job, which need not be trained again.

        Raises:
            ConfigErrors: with all errors that are found without torch.
        """
        from fedlit.experiment.config.settings import setting_errors  # here: NumPy takes a fifth of a second

        values = run_values(self.config, self.overrides)
        if errors := setting_errors(values):
            raise ConfigErrors(errors)
        log_dropped_arguments(self.config, values)
        if not self.is_in_sweep or values["check"]:
            return values, None
        self.write_status()
        if not jobs.can_resume(self.folder, values):
            return values, None
        if is_finished(self.folder):
            return values, read_summary(self.folder)
        return {**values, "resume": str(self.folder)}, None

    def clean_up(self) -> None:
        """Remove a check's folder, or the failure of an earlier attempt."""
        if self.config.check:
            jobs.remove_untrained(self.folder)
        else:
            (self.folder / FAILURE).unlink(missing_ok=True)  # a failed job that was run alone and is finished now

    def write_status(self, reasons: Sequence[str] = ()) -> None:
        """Write `job.json`, and `failure.json` if there are reasons for a failure."""
        call = self.settings.job.env_set.get(jobs.CALL)
        jobs.write_job(self.folder, self.overrides, self.swept, call, reasons)

    def print_traceback(self) -> None:
        """Print the traceback of the current error if the configuration has `traceback=true`."""
        if self.config.traceback:
            traceback.print_exc()

    def resume_hint(self, condition: str = "") -> str:
        """Return the sentence and the command for a stopped run.

        Args:
            condition: words for what has to happen first, after a space.
        """
        from fedlit.cli.resume import resume_command
        from fedlit.server.checkpoint.folders import committed_rounds

        has_checkpoint = bool(committed_rounds(self.folder))
        status = (
            "the last checkpoint is complete. To resume the run"
            if has_checkpoint
            else "no round was finished. To start the run again"
        )
        return f"{status}{condition}:\n  {resume_command(self.folder, to_plain(self.config), self.flags)}"


@contextmanager
def report_errors(job: HydraJob, sweep_request: StopRequest) -> Iterator[None]:
    """Print an error of the block and exit with its status.

    Errors in a sweep's job are written to its `failure.json`, and the block ends normally: an exception would end the sweep.

    Args:
        job: the job that the block runs.
        sweep_request: the request to stop a sweep that runs its jobs in this process.
    """
    try:
        yield
    except RunFailure as error:
        job.print_traceback()
        print_lines(f"fedlit: {error}; {error.remedy or job.resume_hint(' after the problem is solved')}")
        clear_frames(error)
        if not job.is_in_sweep:
            sys.exit(1)
        job.write_status([str(error)])
    except ConfigErrors as error:
        job.print_traceback()
        print_config_errors(error.errors, job.title if job.is_in_sweep else "")
        if not job.is_in_sweep:
            jobs.remove_untrained(job.folder)
            sys.exit(2)
        job.write_status([str(problem) for problem in error.errors])
    except (Exception, SystemExit) as error:
        if not job.is_in_sweep or sweep_request.interruption is not None:
            raise
        log.exception("%s failed", job.title)
        job.write_status([f"{type(error).__name__}: {error}"])


@contextmanager
def explain_interrupt(job: HydraJob, sweep_request: StopRequest) -> Iterator[None]:
    """Add the resume command to an Interrupted of the block.

    The folder of a run that did not start is removed. A sweep's job in a process of its own exits.

    Args:
        job: the job that the block runs.
        sweep_request: the request to stop a sweep that runs its jobs in this process.
    """
    try:
        yield
    except Interrupted as interrupt:
        if job.is_in_sweep and interrupt is not sweep_request.interruption:
            sys.exit(exit_status(interrupt))
        if not (job.folder / COMMAND).is_file():
            jobs.remove_untrained(job.folder)
        else:
            interrupt.hint = job.resume_hint()
        raise


def exit_status(interrupt: Interrupted) -> int:
    """Return the exit status after a signal.

    An earlier handler of SIGUSR1 is called first, such as submitit's, which requeues the job.
    """
    if callable(interrupt.previous_handler) and interrupt.signal_number == signal.SIGUSR1:
        interrupt.previous_handler(interrupt.signal_number, None)
    clear_frames(interrupt)
    return interrupt.status
