"""Train a federated model: `python -m fedlit.train`."""

from __future__ import annotations

import io
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fedlit import STARTED, __version__
from fedlit.cli.command_line import ParsedCommand, config_dir, early_errors, flags_first, parse_command
from fedlit.cli.hydra_internals import lazy_help_texts
from fedlit.cli.hydra_job import HydraJob, exit_status, explain_interrupt, report_errors
from fedlit.cli.overrides.texts import expand_home
from fedlit.cli.sweep import jobs
from fedlit.cli.sweep.gpus import reserve_gpu
from fedlit.cli.sweep.plan import Sweep, plan_sweep
from fedlit.core.errors import ConfigError, ConfigErrors, print_config_errors
from fedlit.core.files import unwritable_reason
from fedlit.core.text.escape import escape_tracebacks, print_lines
from fedlit.core.text.steps import show_steps, steps
from fedlit.experiment.performance import gc_paused
from fedlit.experiment.signals import Interrupted, StopRequest, handle_signals
from fedlit.runs.commands import unquote

HELP_FLAGS = {"--help", "-h"}
NO_RUN_FLAGS = HELP_FLAGS | {"--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
"""Flags with which Hydra composes and trains nothing."""
PRINT_FLAGS = {"--cfg", "-c"}
"""Flags with which Hydra prints the configuration."""

FLAGS_WITHOUT_STEPS = NO_RUN_FLAGS | PRINT_FLAGS
"""Flags with which the standard output is only what they print."""

_sweep_request = StopRequest()
"""The request to stop a sweep that runs its jobs in this process."""


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
def _job(config: DictConfig) -> float | None:
    """Train one run, or one job of a sweep.

    A sweep's job raises no error: Hydra would end the other jobs.

    Returns:
        The monitored metric of the best round, for a sweeper.
    """
    job = HydraJob(config, HydraConfig.get())
    started = time.time() if job.is_in_sweep else STARTED
    gpu = reserve_gpu(job.parallel_gpu_jobs, config.sweep.jobs_per_gpu)  # entered before anything uses a GPU
    show_steps(is_shown="torch" not in sys.modules or not job.is_in_sweep)  # of a sweep the first job's import alone
    with explain_interrupt(job, _sweep_request), gpu, report_errors(job, _sweep_request):
        values, summary = job.prepare()
        if job.is_in_sweep:
            print_lines(job.title + (", finished before" if summary is not None else ""), sys.stdout)
        if summary is not None:
            result = jobs.objective(summary)
        else:
            with gc_paused():
                steps.info("importing torch and Lightning")
                from fedlit.experiment.runner import run_experiment  # here: it takes seconds

            show_steps(is_shown=not job.is_in_sweep)
            choices = job.settings.runtime.choices
            result = run_experiment(values, job.folder, choices, started, job.overrides, job.sweep_job, job.flags)
        job.clean_up()
        return result
    return None  # a sweep's job that failed


def main() -> None:
    """Run the command.

    Exit status 1 for a failure, 2 for an error in the command line or configuration, 130 after Ctrl-C, 143 after other signals.
    """
    escape_tracebacks()
    sys.path.insert(0, os.getcwd())  # so that the console script too finds `model._target_=my_file.MyModule`
    status = 0
    try:
        with handle_signals():
            if "--version" in sys.argv[1:]:
                print(f"fedlit {__version__}")
                return
            if FLAGS_WITHOUT_STEPS.isdisjoint(argument.partition("=")[0] for argument in sys.argv[1:]):
                show_steps()
            steps.info("composing the configuration")
            sweep = _read_command()
            if sweep is None and HELP_FLAGS & set(sys.argv[1:]):
                _print_help()
            else:
                with _finish_sweep(sweep), lazy_help_texts():
                    _job()
    except Interrupted as interrupt:
        print_lines(f"fedlit: stopped by {interrupt}; {interrupt.hint}")
        status = exit_status(interrupt)
    except ConfigErrors as error:
        print_config_errors(error.errors)
        status = 2
    if status:
        sys.exit(status)


def _read_command() -> Sweep | None:
    """Check the command line, and expand `resume=RUN` in `sys.argv`.

    Returns:
        The sweep; None for a single run.

    Raises:
        ConfigErrors: with all errors in the command line.
        Interrupted: if a signal came.
    """
    sys.argv[1:] = flags_first(expand_home(sys.argv[1:]))
    if any(argument.lstrip("+").startswith("resume=") for argument in sys.argv[1:]):
        from fedlit.cli.resume import resume_arguments

        original, sys.argv[1:] = sys.argv[1:], resume_arguments(sys.argv[1:])
        if sys.argv[1:] != original:
            sys.argv += ["hydra.mode=RUN"]  # one run, though its configuration may be of a search
    arguments = sys.argv[1:]
    flags = {argument.partition("=")[0] for argument in arguments}
    if NO_RUN_FLAGS & flags:
        return None
    command = parse_command(arguments)
    if errors := command.errors if PRINT_FLAGS & flags else _check_command(arguments, command):
        raise ConfigErrors(errors)
    sys.argv[1:] = flags_first([*command.first, *arguments])
    return None if PRINT_FLAGS & flags else plan_sweep(sys.argv[1:], command.mode)


@contextmanager
def _finish_sweep(sweep: Sweep | None) -> Iterator[None]:
    """Print each job's status after the block.

    Exits with status 1 if a job is not finished.

    Args:
        sweep: the sweep that the block runs; None for a single run, with which nothing is done.

    Raises:
        Interrupted: if a signal came.
    """
    global _sweep_request
    if sweep is None:
        yield
        return
    sys.argv += sweep.overrides
    status: Any = None
    try:
        with handle_signals() as _sweep_request:
            yield
    except Interrupted as interrupt:
        status = interrupt.status
    except SystemExit as end:  # Hydra has printed why, or a job was stopped
        status = end.code
    is_finished = jobs.finish_sweep(sweep.folder, sweep.call, sweep.flags)
    hint = "run the same command again to resume the sweep"
    if _sweep_request.interruption is not None:
        _sweep_request.interruption.hint = hint
        raise _sweep_request.interruption
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print_lines(f"fedlit: stopped; {hint}")
    if status := status or (0 if is_finished else 1):
        sys.exit(status)


def _print_help() -> None:
    """Print Hydra's help, with long lists of choices wrapped to 80 columns."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):  # Hydra exits after its help
        _job()
    for line in text.getvalue().splitlines():
        print(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False) if len(line) > 80 else line)


def _check_command(arguments: Sequence[str], command: ParsedCommand) -> list[ConfigError]:
    """Return all errors that can be found before Hydra creates a folder.

    Where names are wrong, the values of the valid overrides are checked too.
    """
    errors = [*command.errors]
    if command.config is not None and errors:
        errors += early_errors(command.config)
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        values = [unquote(argument) for argument in arguments if argument.startswith(f"{key}=")]
        folder = Path(values[-1] if values else "outputs")
        if reason := unwritable_reason(folder):
            errors.append(
                ConfigError(key, folder, f"cannot be written: {reason}", f"{key}=FOLDER names another folder")
            )
            break
    return errors
