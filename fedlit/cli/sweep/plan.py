"""`-m`: the folder of a sweep and the arguments for its jobs.

The folder does not depend on the values of the sweep, and each job has a folder in it. The same command again skips finished
jobs, resumes unfinished ones, retries failed ones and adds new values.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.cli.command_line import PRIMARY, SWEEP_EXTRA, compose_error, config_loader
from fedlit.cli.hydra_internals import parse_arguments
from fedlit.cli.overrides.texts import first_value, value_text
from fedlit.cli.sweep.checks import combination_errors, names_job, search_errors, value_errors
from fedlit.cli.sweep.jobs import CALL, CORES, SWEPT, TOTAL
from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.core.files import unwritable_reason
from fedlit.runs.commands import quote

PLUGIN_GROUPS = ("hydra/launcher", "hydra/sweeper")


@dataclass(frozen=True)
class Sweep:
    """A sweep that a command starts or resumes.

    Args:
        folder: the sweep's folder, which holds those of the jobs.
        call: id of this command, different from the ids of earlier commands.
        overrides: further overrides for Hydra.
        flags: arguments that a job needs before its own overrides to run alone.
    """

    folder: Path
    call: str
    overrides: tuple[str, ...]
    flags: tuple[str, ...] = ()


def plan_sweep(arguments: Sequence[str], mode: RunMode | None = None) -> Sweep | None:
    """Return the sweep of a command line; None for a single run.

    Args:
        arguments: the command line.
        mode: value of `hydra.mode` under the choices of groups alone, if known: composing takes a fifth of a second.

    Raises:
        ConfigErrors: if the jobs cannot start, have no distinct folders or cannot be compared.
    """
    parsed = parse_arguments(arguments)
    if not parsed.multirun and not parsed.overrides:
        return None
    with config_loader(parsed.config_dir) as loader:
        primary, parser = parsed.config_name or PRIMARY, OverridesParser.create(loader)
        overrides = parser.parse_overrides(parsed.overrides)
        if mode == RunMode.RUN and not parsed.multirun and not any(map(_can_start_sweep, overrides)):
            _refuse_sweep_keys(overrides)
            return None
        config = _compose_first_job(loader, primary, overrides)
        if not parsed.multirun and OmegaConf.select(config, "hydra.mode") != RunMode.MULTIRUN:
            _refuse_sweep_keys(overrides)
            return None
        params = OmegaConf.select(config, "hydra.sweeper.params") or {}
        keys = {override.get_key_element() for override in overrides}  # these replace params
        params = [param for param in _parse_params(parser, params) if param.get_key_element() not in keys]
        swept = [override for override in (*params, *overrides) if override.is_sweep_override()]
        errors = [*value_errors(config, swept), *search_errors(config, swept)]
        errors += combination_errors(loader, primary, params, overrides)
        if errors:
            raise ConfigErrors({str(error): error for error in errors}.values())  # a value is in several combinations
        values = {o.get_key_element(): [*o.sweep_string_iterator()] for o in swept if o.is_discrete_sweep()}
    return _make_sweep(parsed, config, overrides, swept, prod(map(len, values.values())))


def _make_sweep(
    parsed: Namespace, config: DictConfig, overrides: Sequence[Override], swept: Sequence[Override], num_jobs: int
) -> Sweep:
    """Return the sweep of a command line without errors.

    Args:
        parsed: the command line.
        config: the configuration of the first job, with Hydra's own part.
        overrides: the overrides of the command line.
        swept: the overrides with several values.
        num_jobs: number of combinations of these values.
    """
    given = {"--config-dir": parsed.config_dir, "--config-name": parsed.config_name}
    flags = tuple(f"{flag}={value}" for flag, value in given.items() if value)
    config.sweep.name = str(config.sweep.name or sweep_name(overrides, [o.key_or_group for o in swept], flags))
    folder, call = _sweep_folder(config), secrets.token_hex(8)
    if reason := unwritable_reason(Path(folder)):
        hint = "sweep.name=NAME gives the sweep another name, hydra.sweep.dir=FOLDER another folder"
        raise ConfigErrors([ConfigError("hydra.sweep.dir", folder, f"cannot be written: {reason}", hint)])
    more = [f"sweep.name={quote(config.sweep.name)}", f"hydra.sweep.dir={quote(folder)}"]
    keys = ",".join(dict.fromkeys(override.get_key_element().lstrip("+~") for override in swept))
    total = num_jobs if OmegaConf.select(config, "hydra.sweeper.direction") is None else config.hydra.sweeper.n_trials
    settings = {CALL: call, SWEPT: keys, TOTAL: total}
    more += [f"++hydra.job.env_set.{name}='{value}'" for name, value in settings.items()]
    more += _launcher_overrides(config, num_jobs)
    alone = ["hydra.mode=RUN"] if OmegaConf.select(config, "hydra.mode") == RunMode.MULTIRUN else []
    return Sweep(Path(folder), call, tuple(more), (*flags, *alone))


def sweep_name(overrides: Sequence[Override], swept: Sequence[str], flags: Sequence[str] = ()) -> str:
    """A name for a sweep, independent of its values.

    The order of the overrides does not matter either.

    Args:
        overrides: the overrides of the command line.
        swept: the keys with several values.
        flags: the flags of the command line.
    """
    keys = sorted({*swept})
    rest = {
        override.get_key_element(): override.get_value_element_as_str()
        for override in overrides
        if not override.is_sweep_override() and names_job(re.split(r"[./]", override.key_or_group)[0])
    }
    digest = hashlib.sha256(json.dumps([keys, sorted(rest.items()), sorted(flags)]).encode()).hexdigest()
    return "-".join([*(re.split(r"[./@]", key)[-1] for key in keys[:4]), digest[:8]])


def _compose_first_job(loader: ConfigLoader, primary: str, overrides: Sequence[Override]) -> DictConfig:
    """The configuration of the first job, with Hydra's own part."""
    for override in overrides:
        group, choice = override.key_or_group, str(override.value())
        options = loader.get_group_options(group, ObjectType.CONFIG) if group in PLUGIN_GROUPS else [choice]
        if choice not in options:
            hint = did_you_mean(choice, options) or SWEEP_EXTRA
            raise ConfigErrors([ConfigError(group, choice, f"must be one of {', '.join(options)}", hint)])
    try:
        name = primary.removesuffix(".yaml")
        return compose(name, [first_value(override) for override in overrides], return_hydra_config=True)
    except HydraException as error:
        raise ConfigErrors([compose_error(error)]) from error


def _parse_params(parser: OverridesParser, params: Mapping[str, str]) -> list[Override]:
    """The overrides of `hydra.sweeper.params`."""
    try:
        return parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    except HydraException as error:
        raise ConfigErrors([ConfigError("hydra.sweeper.params", dict(params), str(error).splitlines()[0])]) from error


def _can_start_sweep(override: Override) -> bool:
    """True if an override can set `hydra.mode` to MULTIRUN."""
    key = override.key_or_group
    return re.split(r"[./]", key)[0] == "hydra" and key not in ("hydra.run.dir", "hydra.sweep.dir")


def _refuse_sweep_keys(overrides: Sequence[Override]) -> None:
    """Raise ConfigErrors if a single run overrides a key of sweeps."""
    for override in overrides:
        if override.key_or_group.split(".")[0] == "sweep":
            error = ConfigError(override.key_or_group, value_text(override), "is only for a sweep", "-m starts a sweep")
            raise ConfigErrors([error])


def _sweep_folder(config: DictConfig) -> str:
    try:
        return str(config.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise ConfigErrors([ConfigError("hydra.sweep.dir", "", str(error).splitlines()[0])]) from error


def _launcher_overrides(config: DictConfig, num_jobs: int) -> list[str]:
    """The overrides that divide the cores among parallel jobs."""
    n_jobs = OmegaConf.select(config, "hydra.launcher.n_jobs")
    if n_jobs is None:
        return []
    from fedlit.executors.resources import available_cores  # torch takes seconds

    num_jobs = OmegaConf.select(config, "hydra.sweeper.n_jobs") or num_jobs
    parallel = min(n_jobs if n_jobs > 0 else max(1, available_cores() + 1 + n_jobs), num_jobs)
    return [
        f"hydra.launcher.n_jobs={parallel}",
        f"++hydra.job.env_set.{CORES}='{max(1, available_cores() // parallel)}'",
    ]
