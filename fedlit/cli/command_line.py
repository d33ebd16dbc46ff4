"""Checks of the whole command line, with all errors at once.

Hydra stops at the first error.
"""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from fedlit.cli.hydra_internals import active_config_loader, add_config_dir, parse_arguments
from fedlit.cli.overrides.names import (
    adds_top_key,
    group_errors,
    key_errors,
    key_of_other_choice,
    list_groups,
    redundant_add,
    sweep_in_single_run,
    unused_key,
)
from fedlit.cli.overrides.reading import null_deletions, read_overrides
from fedlit.cli.overrides.suggestions import KeyTree, list_keys
from fedlit.cli.overrides.texts import first_value
from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.experiment.config.plain import to_plain
from fedlit.runs.keys import REQUIRED_KEYS

PRIMARY = "config"
SWEEP_EXTRA = "pip install 'fedlit[sweep]' installs joblib, optuna and submitit"


def config_dir() -> Path:
    """The folder `conf`, in an installed package or beside it."""
    package = Path(__file__).parent.parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


@contextmanager
def config_loader(folder: str | None = None) -> Iterator[ConfigLoader]:
    """Open Hydra's loader over `conf` and, if given, the folder of `--config-dir`."""
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="fedlit"):
        loader = active_config_loader()
        if folder is not None:
            add_config_dir(loader, folder)
        yield loader


@dataclass(frozen=True)
class ParsedCommand:
    """Result of the check of a command line.

    Args:
        errors: all errors in the flags and overrides; empty for a valid command line.
        config: the configuration of the valid overrides alone, so that their values can be checked too; None for a command
            line without errors, for a sweep (which has several configurations), and where Hydra cannot compose one.
        mode: the value of `hydra.mode` under the choices of groups alone; None if these were not composed.
        first: further overrides that must come before those of the command line.
    """

    errors: list[ConfigError]
    config: DictConfig | None = None
    mode: RunMode | None = None
    first: Sequence[str] = ()


def parse_command(arguments: Sequence[str]) -> ParsedCommand:
    """Return the errors and the valid configuration of a command line."""
    parsed = parse_arguments(arguments)
    if errors := _flag_errors(parsed):
        return ParsedCommand(errors)
    with config_loader(parsed.config_dir) as loader:
        primary = (parsed.config_name or PRIMARY).removesuffix(".yaml")
        if errors := _primary_errors(loader, primary):
            return ParsedCommand(errors)
        return _parse_overrides(loader, primary, parsed.overrides, parsed.multirun)


def _parse_overrides(loader: ConfigLoader, primary: str, texts: Sequence[str], is_multirun: bool) -> ParsedCommand:
    """Return the errors in overrides, and the configuration without them."""
    overrides, errors = read_overrides(loader, texts)
    ours = [override for override in overrides if override.key_or_group.split(".")[0].split("/")[0] != "hydra"]
    names = list_groups(loader)
    groups = [override for override in ours if override.key_or_group in names or "/" in override.key_or_group]
    problems = {id(override): group_errors(loader, names, override) for override in groups}
    if additions := [override for override in groups if override.is_add()]:
        choices = OmegaConf.select(_compose_or_empty(primary, ()), "hydra.runtime.choices") or {}
        problems |= {id(o): [redundant_add(o)] for o in additions if o.key_or_group in choices and not problems[id(o)]}
    mode, first = None, list[str]()
    if len(groups) < len(ours):  # composing takes a fifth of a second
        valid_groups = [override for override in groups if not problems[id(override)]]
        config = _compose(primary, valid_groups, errors, with_hydra=True)
        if config is not None:
            mode = OmegaConf.select(config, "hydra.mode") or RunMode.RUN
            problems |= _key_problems(loader, names, config, [o for o in ours if id(o) not in problems], texts)
            first = null_deletions(config, [override for override in ours if not problems.get(id(override))])
    valid = [override for override in ours if not problems.get(id(override))]
    sweeps = [override for override in valid if override.is_sweep_override()]
    if sweeps and not is_multirun and not _is_multirun(primary, overrides):
        problems |= {id(override): [sweep_in_single_run(override)] for override in sweeps}
        valid, sweeps = [override for override in valid if override not in sweeps], []
    errors += [problem for override in ours for problem in problems.get(id(override), [])]
    has_config = errors and not is_multirun and not sweeps
    return ParsedCommand(errors, _compose(primary, valid, errors, first=first) if has_config else None, mode, first)


def _key_problems(
    loader: ConfigLoader, groups: Sequence[str], config: DictConfig, overrides: Sequence[Override], texts: Sequence[str]
) -> dict[int, list[ConfigError]]:
    """Return the errors of each key's override, by the override's id.

    Args:
        loader: Hydra's loader of configurations.
        groups: names of all groups.
        config: the configuration of the choices alone, with Hydra's own part, which is removed.
        overrides: the overrides of keys.
        texts: all overrides of the command line.
    """
    has_additions = any(override.is_add() or override.is_force_add() for override in overrides)
    text = "\n".join([OmegaConf.to_yaml(config), *texts]) if has_additions else ""
    with open_dict(config):
        choices = config.pop("hydra").runtime.choices
    for override in overrides:  # a class of the user takes other keys
        key = override.key_or_group
        if key.endswith("._target_") and not override.is_sweep_override() and OmegaConf.select(config, key) is not None:
            OmegaConf.update(config, key, override.value())
    tree = KeyTree(config, list(list_keys(config)), groups)
    problems = {id(override): key_errors(tree, override) for override in overrides}
    for override in overrides:
        if problems[id(override)]:
            problems[id(override)] = key_of_other_choice(loader, tree, choices, override) or problems[id(override)]
        elif adds_top_key(config, override):
            problems[id(override)] = unused_key(text, tree, override)
    return problems


def config_flags(settings: Any) -> list[str]:
    """Return the flags that are needed to compose a configuration.

    Args:
        settings: Hydra's own part of the configuration.
    """
    folders = [source.path for source in settings.runtime.config_sources if source.provider == "command-line"]
    name = settings.job.config_name.removesuffix(".yaml")
    return [*(f"--config-dir={folder}" for folder in folders), *([] if name == PRIMARY else [f"--config-name={name}"])]


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with flags before overrides, as Hydra needs them."""
    overrides = parse_arguments(arguments).overrides
    return [*(argument for argument in arguments if argument not in overrides), *overrides]


def _flag_errors(parsed: Namespace) -> list[ConfigError]:
    if parsed.cfg and parsed.multirun:
        problem = "prints the configuration of one run, and -m starts several"
        return [ConfigError("--cfg", parsed.cfg, problem, "leave -m out")]
    if parsed.config_path is not None:
        hint = "--config-dir=FOLDER adds your own choices"
        return [ConfigError("--config-path", parsed.config_path, "cannot be changed in fedlit", hint)]
    if (folder := parsed.config_dir) is not None and not os.path.isdir(folder):
        hint = "name a folder that holds groups, such as model/mine.yaml"
        return [ConfigError("--config-dir", folder, "is not a folder", hint)]
    return []


def _primary_errors(loader: ConfigLoader, name: str) -> list[ConfigError]:
    """Return the errors in the user's own primary configuration (`--config-name`)."""
    if name == PRIMARY:
        return []
    names = [name for name in loader.get_group_options("", ObjectType.CONFIG) if not name.startswith("_")]
    if name not in names:
        return [ConfigError("--config-name", name, f"must be one of {', '.join(names)}", did_you_mean(name, names))]
    errors: list[ConfigError] = []
    config = _compose(name, [], errors)
    missing = [] if config is None else [key for key in REQUIRED_KEYS if key not in config]
    if missing:
        hint = f"add every top key of fedlit's {PRIMARY}.yaml"
        errors.append(ConfigError("--config-name", name, f"has no {', '.join(missing)}", hint))
    return errors


def _compose_or_empty(primary: str, overrides: Sequence[Override]) -> DictConfig:
    """The configuration with Hydra's own part; empty if Hydra cannot compose one."""
    try:
        return compose(primary, [first_value(override) for override in overrides], return_hydra_config=True)
    except HydraException:
        return OmegaConf.create()


def _is_multirun(primary: str, overrides: Sequence[Override]) -> bool:
    """True if the configuration itself asks for a sweep, without `-m`."""
    return OmegaConf.select(_compose_or_empty(primary, overrides), "hydra.mode") == RunMode.MULTIRUN


def _compose(
    primary: str,
    overrides: Sequence[Override],
    errors: list[ConfigError],
    *,
    with_hydra: bool = False,
    first: Sequence[str] = (),
) -> DictConfig | None:
    """The configuration; None and a new item in `errors` on failure."""
    texts = [*first, *(first_value(override) for override in overrides)]
    try:
        return compose(primary, texts, return_hydra_config=with_hydra)
    except HydraException as error:
        errors += [problem for problem in (compose_error(error),) if problem not in errors]
        return None


def compose_error(error: HydraException) -> ConfigError:
    """The error of unknown or incompatible choices, from Hydra's message."""
    if missing := re.search(r"Could not find '(hydra/(?:launcher|sweeper))/([^']+)'", str(error)):
        return ConfigError(missing[1], missing[2], "is not installed", SWEEP_EXTRA)
    return ConfigError("command line", "", f"cannot be composed: {str(error).splitlines()[0]}")


def early_errors(config: DictConfig) -> list[ConfigError]:
    """Errors in the values of a configuration, found without torch.

    The run has no folder yet. A value that refers to Hydra's own part has no value yet.
    """
    from fedlit.experiment.config.settings import setting_errors  # here: NumPy takes a fifth of a second

    try:
        return setting_errors(to_plain(config))
    except ConfigErrors as error:
        return [problem for problem in error.errors if "${hydra:" not in str(problem.value)]
