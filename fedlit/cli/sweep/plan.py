"""`-m`: a sweep has one folder, whatever values it is typed with, and each of its jobs has a folder of its own in it.

Typed again, finished jobs are skipped, unfinished ones gone on with, failed ones tried again, and new values added.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from pathlib import Path

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.cli.command_line import PRIMARY, SWEEP_EXTRA, compose_error, config_loader, first_value, quote
from fedlit.cli.sweep.jobs import CALL, CORES, NOT_COUNTED
from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean, raise_errors, require, require_at_least
from fedlit.experiment.config.instantiate import call_checked

PLUGINS = ("hydra/launcher", "hydra/sweeper")
DIRECTIONS = {"max": "maximize", "min": "minimize"}


@dataclass(frozen=True)
class SweepConfig:
    """What the configuration says of a sweep.

    Args:
        name: of its folder; None makes one.
        jobs_per_gpu: jobs on each GPU at the same time, >= 1.
    """

    name: str | int | None = None
    jobs_per_gpu: int = 1

    def __post_init__(self) -> None:
        plain = self.name is None or bool(re.fullmatch(r"\w[\w.-]*", str(self.name)))
        remedy = "hydra.sweep.dir=FOLDER names any"
        raise_errors(
            require(plain, "name", self.name, "must be letters, digits and . - _", remedy),
            require_at_least("jobs_per_gpu", self.jobs_per_gpu),
        )


@dataclass(frozen=True)
class Sweep:
    """A multirun that was typed.

    Args:
        folder: of all its jobs.
        call: tells what this command does from what earlier ones did.
        overrides: what Hydra is told beside what was typed.
        flags: what a job that is run alone needs in front of its own overrides.
    """

    folder: Path
    call: str
    overrides: tuple[str, ...]
    flags: tuple[str, ...] = ()


def plan_sweep(arguments: Sequence[str], mode: RunMode | None = None) -> Sweep | None:
    """The multirun that was typed; None for a single run.

    Args:
        arguments: what was typed.
        mode: that of the choices alone, where it is known: composing them takes a fifth of a second.

    Raises:
        Mistakes: if its jobs could not be begun, told apart or judged.
    """
    typed = get_args_parser().parse_args(list(arguments))
    if not typed.multirun and not typed.overrides:
        return None
    with config_loader(typed.config_dir) as found:
        parser = OverridesParser.create(found)
        overrides = parser.parse_overrides(typed.overrides)
        if mode == RunMode.RUN and not typed.multirun and not any(map(_may_begin, overrides)):
            _refuse_single(overrides)
            return None
        config = _composed(found, typed.config_name or PRIMARY, overrides)
        if not typed.multirun and OmegaConf.select(config, "hydra.mode") != RunMode.MULTIRUN:
            _refuse_single(overrides)
            return None
        params = OmegaConf.select(config, "hydra.sweeper.params") or {}
        typed_keys = {override.get_key_element() for override in overrides}  # which take the place of params
        params = [o for o in _parsed(parser, params) if o.get_key_element() not in typed_keys]
        swept = [o for o in (*params, *overrides) if o.is_sweep_override()]
        wrong = [*_wrong(config, swept), *_wrong_search(config, swept)]
        wrong += _not_composed(found, typed.config_name or PRIMARY, params, overrides)
        if wrong:
            raise ConfigErrors(wrong)
        jobs = prod(
            {o.get_key_element(): len([*o.sweep_string_iterator()]) for o in swept if o.is_discrete_sweep()}.values()
        )
    given = {"--config-dir": typed.config_dir, "--config-name": typed.config_name}
    flags = tuple(f"{flag}={value}" for flag, value in given.items() if value)
    config.sweep.name = str(config.sweep.name or sweep_name(overrides, [o.key_or_group for o in swept], flags))
    folder, call = _folder(config), secrets.token_hex(8)
    told = [f"sweep.name={quote(config.sweep.name)}", f"hydra.sweep.dir={quote(folder)}"]
    told += [f"++hydra.job.env_set.{CALL}='{call}'", *_shares(config, jobs)]
    alone = ["hydra.mode=RUN"] if OmegaConf.select(config, "hydra.mode") == RunMode.MULTIRUN else []
    return Sweep(Path(folder), call, tuple(told), (*flags, *alone))


def sweep_name(overrides: Sequence[Override], swept: Sequence[str], flags: Sequence[str] = ()) -> str:
    """A name for the sweep of some keys: the same whatever their values, and in whatever order things were typed."""
    keys = sorted({*swept})
    rest = {
        override.get_key_element(): override.get_value_element_as_str()
        for override in overrides
        if not override.is_sweep_override()
        and re.split(r"[./]", override.key_or_group)[0] not in ("hydra", *NOT_COUNTED)
    }
    digest = hashlib.sha256(json.dumps([keys, sorted(rest.items()), sorted(flags)]).encode()).hexdigest()
    return "-".join([*(re.split(r"[./@]", key)[-1] for key in keys[:4]), digest[:8]])


def _composed(found: ConfigLoaderImpl, primary: str, overrides: Sequence[Override]) -> DictConfig:
    """The configuration of the first job, with Hydra's own part."""
    for override in overrides:
        group, choice = override.key_or_group, str(override.value())
        options = found.get_group_options(group, ObjectType.CONFIG) if group in PLUGINS else [choice]
        if choice not in options:
            remedy = did_you_mean(choice, options) or SWEEP_EXTRA
            raise ConfigErrors([ConfigError(group, choice, f"must be one of {', '.join(options)}", remedy)])
    try:
        name = primary.removesuffix(".yaml")
        return compose(name, [first_value(override) for override in overrides], return_hydra_config=True)
    except HydraException as error:
        raise ConfigErrors([compose_error(error)]) from error


def _not_composed(
    found: ConfigLoaderImpl, primary: str, params: Sequence[Override], typed: Sequence[Override]
) -> Iterator[ConfigError]:
    """Choices of groups that are swept and do not go with what else was typed: Hydra would tell the first, in its own words."""
    both = [*params, *typed]
    groups = [o for o in both if o.is_discrete_sweep() and found.get_group_options(o.key_or_group, ObjectType.CONFIG)]
    rest = [first_value(override) for override in both if override not in groups]
    jobs = product(*([f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] for o in groups))
    for choices in islice(jobs, 0 if params else 1, None):  # the first of what was typed is composed already
        try:
            compose(primary.removesuffix(".yaml"), [*rest, *choices])
        except HydraException as error:
            why = f"does not go with the rest: {str(error).splitlines()[0]}"
            remedy = "a sweep multiplies its keys; settings that differ in several are choices of one group, as partition's are"
            yield ConfigError(" ".join(choices) or "hydra.sweeper.params", "", why, remedy)


def _parsed(parser: OverridesParser, params: Mapping[str, str]) -> list[Override]:
    """What `hydra.sweeper.params` sweeps."""
    try:
        return parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    except HydraException as error:
        raise ConfigErrors([ConfigError("hydra.sweeper.params", dict(params), str(error).splitlines()[0])]) from error


def _may_begin(override: Override) -> bool:
    """Whether it may make a multirun of what is one run by its choices."""
    key = override.key_or_group
    return re.split(r"[./]", key)[0] == "hydra" and key not in ("hydra.run.dir", "hydra.sweep.dir")


def _refuse_single(overrides: Sequence[Override]) -> None:
    if wrong := [override for override in overrides if override.key_or_group.split(".")[0] == "sweep"]:
        raise ConfigErrors(
            [ConfigError(wrong[0].key_or_group, _shown(wrong[0]), "is about the jobs of a sweep", "-m begins one")]
        )


def _wrong(config: DictConfig, swept: Sequence[Override]) -> Iterator[ConfigError]:
    """Values of the sweep itself."""
    several = [override for override in swept if override.key_or_group.split(".")[0] in ("hydra", *NOT_COUNTED)]
    for override in several:
        yield ConfigError(override.key_or_group, _shown(override), "is several values, and has one in the whole sweep")
    try:
        call_checked(SweepConfig, {} if several else OmegaConf.to_container(config.sweep))  # type: ignore[arg-type]
    except (ConfigError, ConfigErrors) as wrong:
        yield from wrong.prefixed("sweep").errors
    if OmegaConf.select(config, "hydra.launcher.n_jobs") == 0:
        yield ConfigError("hydra.launcher.n_jobs", 0, "must be a number of jobs, or -1 for one on each core")


def _wrong_search(config: DictConfig, swept: Sequence[Override]) -> Iterator[ConfigError]:
    """A sweeper with a direction searches, for the best round's monitored metric; others need values that can be counted."""
    direction, mode = OmegaConf.select(config, "hydra.sweeper.direction"), config.monitor.mode
    if direction is None:
        for override in swept:
            if not override.is_discrete_sweep():
                why = "is an interval, and this sweeper needs single values"
                remedy = "hydra/sweeper=optuna searches an interval"
                yield ConfigError(override.key_or_group, _shown(override), why, remedy)
        return
    shown = getattr(direction, "name", direction)
    if shown != DIRECTIONS.get(mode, shown):
        why = f"must be {DIRECTIONS[mode]}: the objective is {config.monitor.name} of the best round, and monitor.mode={mode}"
        yield ConfigError("hydra.sweeper.direction", shown, why)
    if config.monitor.name is None:
        yield ConfigError("monitor.name", None, "must name what the search is for", "leave it out")


def _shown(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _folder(config: DictConfig) -> str:
    try:
        return str(config.hydra.sweep.dir)
    except OmegaConfBaseException as error:
        raise ConfigErrors([ConfigError("hydra.sweep.dir", "", str(error).splitlines()[0])]) from error


def _shares(config: DictConfig, jobs: int) -> list[str]:
    """How many jobs a launcher that is asked for several runs at the same time, and the cores of each."""
    asked = OmegaConf.select(config, "hydra.launcher.n_jobs")
    if asked is None:
        return []
    from fedlit.executors.resources import available_cores  # torch takes seconds

    jobs = OmegaConf.select(config, "hydra.sweeper.n_jobs") or jobs
    at_once = min(asked if asked > 0 else max(1, available_cores() + 1 + asked), jobs)
    return [f"hydra.launcher.n_jobs={at_once}", f"++hydra.job.env_set.{CORES}='{max(1, available_cores() // at_once)}'"]
