"""What was typed: are there such groups, choices and keys? Hydra stops at the first that is wrong; this finds all."""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from fedlit.cli.overrides import (
    adds_top_key,
    group_errors,
    key_errors,
    key_of_other_choice,
    list_groups,
    list_keys,
    redundant_add,
    sweep_in_single_run,
    unused_key,
)
from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.runs.keys import REQUIRED_KEYS

PRIMARY = "config"
SWEEP_EXTRA = "pip install 'fedlit[sweep]' brings joblib, optuna and submitit"


def config_dir() -> Path:
    """The configuration's folder: inside the package where it was installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


@contextmanager
def config_loader(search: str | None = None) -> Iterator[ConfigLoaderImpl]:
    """Hydra's loader over the configuration and, if given, the user's `--config-dir`."""
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="fedlit"):
        found = GlobalHydra.instance().config_loader()
        assert isinstance(found, ConfigLoaderImpl)
        if search is not None:
            found.repository.get_sources().insert(
                1, FileConfigSource("--config-dir", f"file://{Path(search).absolute()}")
            )
        yield found


@dataclass(frozen=True)
class ParsedCommand:
    """What was typed, looked at.

    Args:
        mistakes: in it.
        config: of what was right, if there are mistakes; None where a sweep makes several.
        mode: that of the choices alone; None where they were not composed.
    """

    errors: list[ConfigError]
    config: DictConfig | None = None
    mode: RunMode | None = None


def parse_command(arguments: Sequence[str]) -> ParsedCommand:
    """The mistakes in what was typed."""
    typed = get_args_parser().parse_args(list(arguments))
    if wrong := _flag_problems(typed):
        return ParsedCommand(wrong)
    with config_loader(typed.config_dir) as found:
        primary = (typed.config_name or PRIMARY).removesuffix(".yaml")
        if wrong := _primary_problems(found, primary):
            return ParsedCommand(wrong)
        overrides, mistakes = _parsed(found, typed.overrides)
        ours = [override for override in overrides if override.key_or_group.split(".")[0].split("/")[0] != "hydra"]
        names = list_groups(found)
        groups = [override for override in ours if override.key_or_group in names or "/" in override.key_or_group]
        problems = {id(override): group_errors(found, names, override) for override in groups}
        if again := [override for override in groups if override.is_add()]:
            chosen = _chosen(primary, ())
            problems |= {id(o): [redundant_add(o)] for o in again if o.key_or_group in chosen and not problems[id(o)]}
        mode = None
        if len(groups) < len(ours):  # composing takes a fifth of a second
            choices = [override for override in groups if not problems[id(override)]]
            keyed = [override for override in ours if id(override) not in problems]
            whole = _composed(primary, choices, mistakes, hydra=True)
            if whole is not None:
                mode = OmegaConf.select(whole, "hydra.mode") or RunMode.RUN
                problems |= _of_keys(found, names, whole, keyed, typed.overrides)
        right = [override for override in ours if not problems.get(id(override))]
        swept = [override for override in right if override.is_sweep_override()]
        if (
            swept
            and not typed.multirun
            and OmegaConf.select(_whole(primary, overrides), "hydra.mode") != RunMode.MULTIRUN
        ):
            problems |= {id(override): [sweep_in_single_run(override)] for override in swept}
            right, swept = [override for override in right if override not in swept], []
        mistakes += [problem for override in ours for problem in problems.get(id(override), [])]
        several = typed.multirun or swept or not mistakes
        return ParsedCommand(mistakes, None if several else _composed(primary, right, mistakes), mode)


def _of_keys(
    found: ConfigLoaderImpl, groups: Sequence[str], whole: DictConfig, keyed: Sequence[Override], typed: Sequence[str]
) -> dict[int, list[ConfigError]]:
    """What is wrong with each override of a key, by its id; `whole` is what the choices alone make, with Hydra's own part."""
    text = "\n".join([OmegaConf.to_yaml(whole), *typed]) if any(o.is_add() or o.is_force_add() for o in keyed) else ""
    with open_dict(whole):
        chosen = whole.pop("hydra").runtime.choices
    keys = list(list_keys(whole))
    problems = {id(o): key_errors(whole, keys, groups, o) for o in keyed}
    for override in keyed:
        if problems[id(override)]:
            problems[id(override)] = key_of_other_choice(found, chosen, override) or problems[id(override)]
        elif adds_top_key(whole, override):
            problems[id(override)] = unused_key(text, whole, override)
    return problems


def config_flags(settings: Any) -> list[str]:
    """What was typed that is no override and without which a configuration cannot be composed, from Hydra's own part of it."""
    folders = [source.path for source in settings.runtime.config_sources if source.provider == "command-line"]
    name = settings.job.config_name.removesuffix(".yaml")
    return [*(f"--config-dir={folder}" for folder in folders), *([] if name == PRIMARY else [f"--config-name={name}"])]


def _flag_problems(typed: Namespace) -> list[ConfigError]:
    if typed.cfg and typed.multirun:
        return [ConfigError("--cfg", typed.cfg, "shows the configuration of one run", "leave -m away")]
    if (path := typed.config_path) is not None:
        return [
            ConfigError("--config-path", path, "is fedlit's own to say", "--config-dir=FOLDER adds your own choices")
        ]
    if (folder := typed.config_dir) is not None and not Path(folder).is_dir():
        return [
            ConfigError(
                "--config-dir", folder, "is not a folder", "name one that holds groups, such as model/mine.yaml"
            )
        ]
    return []


def _primary_problems(found: ConfigLoaderImpl, name: str) -> list[ConfigError]:
    """What is wrong with a configuration that takes the place of ours."""
    if name == PRIMARY:
        return []
    names = [name for name in found.get_group_options("", ObjectType.CONFIG) if not name.startswith("_")]
    if name not in names:
        return [ConfigError("--config-name", name, f"must be one of {', '.join(names)}", did_you_mean(name, names))]
    mistakes: list[ConfigError] = []
    config = _composed(name, [], mistakes)
    absent = [] if config is None else [key for key in REQUIRED_KEYS if key not in config]
    if absent:
        remedy = "it needs all that config.yaml has at its top"
        mistakes.append(ConfigError("--config-name", name, f"has no {', '.join(absent)}", remedy))
    return mistakes


def _whole(primary: str, overrides: Sequence[Override]) -> DictConfig:
    """The configuration with Hydra's own part, or an empty one."""
    try:
        return compose(primary, [first_value(override) for override in overrides], return_hydra_config=True)
    except HydraException:
        return OmegaConf.create()


def _chosen(primary: str, overrides: Sequence[Override]) -> Mapping[str, str]:
    """The choice in each group."""
    return OmegaConf.select(_whole(primary, overrides), "hydra.runtime.choices") or {}


def _composed(
    primary: str, overrides: Sequence[Override], mistakes: list[ConfigError], hydra: bool = False
) -> DictConfig | None:
    """The configuration, with Hydra's own part or without; or None and one more mistake."""
    try:
        return compose(primary, [first_value(override) for override in overrides], return_hydra_config=hydra)
    except HydraException as error:
        mistakes += [wrong for wrong in (compose_error(error),) if wrong not in mistakes]
        return None


def compose_error(error: HydraException) -> ConfigError:
    """What Hydra says of choices that do not go together, or are not there."""
    remedy = SWEEP_EXTRA if "'hydra/" in str(error) else ""
    return ConfigError("", "", f"cannot be composed: {str(error).splitlines()[0]}", remedy)


def _parsed(found: ConfigLoaderImpl, texts: Sequence[str]) -> tuple[list[Override], list[ConfigError]]:
    overrides, mistakes = [], []
    for text in texts:
        try:
            overrides.append(OverridesParser.create(found).parse_overrides([text])[0])
        except HydraException as error:
            mistakes.append(
                ConfigError(
                    text,
                    "",
                    f"cannot be read: {str(error).splitlines()[0]}",
                    "write key=value; quote what has special characters",
                )
            )
    return overrides, mistakes


def first_value(override: Override) -> str:
    """The override with the first of its values, as a word that Hydra reads."""
    if not override.is_sweep_override():
        return str(override.input_line)
    if not override.is_discrete_sweep():
        return f"+_swept.{override.key_or_group.replace('/', '_')}=null"
    return f"{str(override.input_line).partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"


def write_error(folder: Path) -> str:
    """Why nothing can be written into a folder that may not be there yet, or an empty string. Leaves nothing behind."""
    above = folder.absolute()
    while not above.exists() and above != above.parent:
        above = above.parent
    try:
        with tempfile.NamedTemporaryFile(dir=above, prefix=".fedlit-"):
            return ""
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)


def quote(value: object) -> str:
    """A value as a word that Hydra reads as it is."""
    return "'" + str(value).replace("'", "\\'") + "'"


def unquote(text: str) -> str:
    """The value of a `key=value`, without quotes around it."""
    value = text.partition("=")[2]
    return value[1:-1].replace("\\'", "'") if value[:1] in ("'", '"') and value[-1:] == value[:1] else value
