"""Checks of a sweep before its first job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice, product

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from fedlit.cli.command_line import early_errors
from fedlit.cli.overrides.texts import first_value, value_text
from fedlit.core.errors import ConfigError, ConfigErrors, raise_errors, require, require_at_least
from fedlit.experiment.config.instantiate import call_checked
from fedlit.runs.keys import row_of

DIRECTIONS = {"max": "maximize", "min": "minimize"}
"""Optuna's direction for each value of `monitor.mode`."""

MAX_COMBINATIONS, MAX_VALUES = 100, 100
"""Numbers of combinations of choices, and of values of a key, that are checked before the first job."""


@dataclass(frozen=True)
class SweepConfig:
    """The configuration of a sweep.

    Args:
        name: name of the sweep's folder; None for one from the keys of the sweep.
        jobs_per_gpu: jobs on each GPU at the same time, >= 1.
    """

    name: str | int | None = None
    jobs_per_gpu: int = 1

    def __post_init__(self) -> None:
        is_valid = self.name is None or bool(re.fullmatch(r"\w[\w.-]*", str(self.name)))
        hint = "hydra.sweep.dir=FOLDER takes any name"
        raise_errors(
            require(is_valid, "name", self.name, "must be letters, digits and . - _", hint),
            require_at_least("jobs_per_gpu", self.jobs_per_gpu),
        )


def names_job(top_key: str) -> bool:
    """True if another value of a top key is another job."""
    return top_key != "hydra" and row_of(top_key).names_job


def combination_errors(
    loader: ConfigLoader, primary: str, params: Sequence[Override], overrides: Sequence[Override]
) -> Iterator[ConfigError]:
    """Yield an error for each impossible combination, and each wrong value.

    Hydra would report only the first combination, in its own words. A wrong value would end its jobs alone.
    """
    both = [*params, *overrides]
    groups = [o for o in both if o.is_discrete_sweep() and loader.get_group_options(o.key_or_group, ObjectType.CONFIG)]
    rest = [first_value(override) for override in both if override not in groups]
    keys = [override for override in both if override.is_discrete_sweep() and override not in groups]
    jobs = product(*([f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] for o in groups))
    for choices in islice(jobs, MAX_COMBINATIONS):
        try:
            yield from _job_errors(compose(primary.removesuffix(".yaml"), [*rest, *choices]), keys)
        except HydraException as error:
            problem = f"does not fit the other overrides: {str(error).splitlines()[0]}"
            hint = "a sweep combines all values; put settings that differ together in the choices of one group"
            yield ConfigError(" ".join(choices) or "hydra.sweeper.params", "", problem, hint)


def _job_errors(config: DictConfig, swept: Sequence[Override]) -> Iterator[ConfigError]:
    """Yield the errors in the values of a combination's jobs.

    Each value of a key is tried with the first values of the other keys.
    """
    yield from early_errors(config)
    for override in swept:
        for value in islice(override.sweep_iterator(), 1, MAX_VALUES):
            job = deepcopy(config)
            with open_dict(job):
                OmegaConf.update(job, override.key_or_group, value, merge=False, force_add=True)
            yield from (error for error in early_errors(job) if error.key.startswith(override.key_or_group))


def value_errors(config: DictConfig, swept: Sequence[Override]) -> Iterator[ConfigError]:
    """Yield the errors in the sweep's own values."""
    fixed = [override for override in swept if not names_job(override.key_or_group.split(".")[0])]
    for override in fixed:
        problem = "has several values, and a sweep needs one for all its jobs"
        yield ConfigError(override.key_or_group, value_text(override), problem)
    try:
        call_checked(SweepConfig, {} if fixed else OmegaConf.to_container(config.sweep))  # type: ignore[arg-type]
    except (ConfigError, ConfigErrors) as error:
        yield from error.prefixed("sweep").errors
    if OmegaConf.select(config, "hydra.launcher.n_jobs") == 0:
        yield ConfigError("hydra.launcher.n_jobs", 0, "must be a number of jobs, or -1 for one job on each core")
    if (
        str(OmegaConf.select(config, "hydra.launcher._target_")).endswith(".SlurmLauncher")
        and shutil.which("srun") is None
    ):
        problem = "needs Slurm, and this machine has no command srun"
        hint = "start the sweep on a machine of the Slurm cluster, or use hydra/launcher=submitit_local or joblib"
        yield ConfigError("hydra/launcher", "submitit_slurm", problem, hint)


def search_errors(config: DictConfig, swept: Sequence[Override]) -> Iterator[ConfigError]:
    """Yield errors in a search's direction, or intervals without a search.

    A sweeper with a direction optimises the monitored metric of the best round.
    """
    direction, mode = OmegaConf.select(config, "hydra.sweeper.direction"), config.monitor.mode
    if direction is None:
        for override in swept:
            if not override.is_discrete_sweep():
                problem = "is an interval, and this sweeper needs single values"
                hint = "hydra/sweeper=optuna searches an interval"
                yield ConfigError(override.key_or_group, value_text(override), problem, hint)
        return
    value = getattr(direction, "name", direction)
    if value != DIRECTIONS.get(mode, value):
        problem = (
            f"must be {DIRECTIONS[mode]}, because monitor.mode={mode}: the search is for the best {config.monitor.name}"
        )
        yield ConfigError("hydra.sweeper.direction", value, problem)
    if config.monitor.name is None:
        yield ConfigError("monitor.name", None, "must name the metric that the search optimises", "leave it out")
