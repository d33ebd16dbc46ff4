"""An override as it was typed: is there such a group, choice, key?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.runs.keys import REQUIRED_KEYS


def list_groups(found: ConfigLoaderImpl, parent: str = "") -> list[str]:
    """The names of all groups below a parent, those inside others with a slash."""
    below = found.repository.get_group_options(parent, ObjectType.GROUP)  # list_groups copies all of it each time
    names = [f"{parent}/{name}".lstrip("/") for name in below if not name.startswith((".", "_"))]
    return names + [inner for name in names if name != "hydra" for inner in list_groups(found, name)]


def group_errors(found: ConfigLoaderImpl, names: Sequence[str], override: Override) -> list[ConfigError]:
    """What is wrong with the choice of a group."""
    group = override.key_or_group
    if group not in names:
        return [ConfigError(group, (*_choices(override), "")[0], "is not a group", did_you_mean(group, names))]
    if override.is_delete():
        return _needed(group)
    options = found.repository.get_group_options(group, ObjectType.CONFIG)
    wrong = [choice for choice in _choices(override) if choice not in options]
    return [
        ConfigError(
            group,
            choice,
            f"must be one of {', '.join(options)}",
            "leave it out to take the default" if choice == "None" else did_you_mean(choice, options),
        )
        for choice in wrong
    ]


def redundant_add(override: Override) -> ConfigError:
    """A + before a group that has its choice already."""
    group, choice = override.key_or_group, _choices(override)[0]
    return ConfigError(group, choice, "is a choice that there is already", f"write {group}={choice}, without +")


def key_errors(config: DictConfig, keys: Sequence[str], groups: Sequence[str], override: Override) -> list[ConfigError]:
    """What is wrong with a key; `keys` are all of the configuration's, `groups` those that can be chosen."""
    key, shown = override.key_or_group, str(override.input_line).partition("=")[2]
    if override.is_force_add():
        return []
    if override.is_add():
        taken = key in keys and isinstance(OmegaConf.select(config, key), str | int | float)
        return [ConfigError(key, shown, "is there already", f"write {key}={shown}, without +")] if taken else []
    if key in keys:
        return _needed(key) if override.is_delete() else []
    remedies = [did_you_mean(key, [*keys, *groups]) or _same_ending(key, keys)]
    if key.rpartition(".")[0] in keys and not override.is_delete():
        remedies.append(f"a new key is added by +{key}={shown}")
    return [ConfigError(key, shown, "is not a key of the configuration", "; ".join(filter(None, remedies)))]


def key_of_other_choice(found: ConfigLoaderImpl, chosen: Mapping[str, str], override: Override) -> list[ConfigError]:
    """Of a key that the configuration does not have: that other choices of its group have it; `chosen` are those there are."""
    key, shown = override.key_or_group, str(override.input_line).partition("=")[2]
    group, _, rest = key.partition(".")
    if group not in chosen or override.is_add() or override.is_force_add():
        return []
    options = found.get_group_options(group, ObjectType.CONFIG)
    results = {option: found.repository.load_config(f"{group}/{option}") for option in options}
    configs = {option: result.config for option, result in results.items() if result is not None}
    have = [
        f"{group}={o}" for o, config in configs.items() if isinstance(config, DictConfig) and rest in list_keys(config)
    ]
    if not have:
        return []
    *rest_of_them, last = have
    which = f"{', '.join(rest_of_them)} and {last} have it" if rest_of_them else f"{last} has it"
    return [ConfigError(key, shown, f"is not a key of {group}={chosen[group]}", which)]


def adds_top_key(config: DictConfig, override: Override) -> bool:
    """Whether it adds a key beside the configuration's groups and values."""
    adds = override.is_add() or override.is_force_add()
    return adds and override.key_or_group.partition(".")[0] not in config


def unused_key(text: str, config: DictConfig, override: Override) -> list[ConfigError]:
    """A new key at the top that nobody reads, for no `${...}` in the text is about it."""
    key, shown = override.key_or_group, str(override.input_line).partition("=")[2]
    referred = {name for part in re.findall(r"\$\{([^}]*)", text) for name in re.findall(r"\w+", part)}
    if key.partition(".")[0] in referred:
        return []
    known = [*list_keys(config)]
    return [
        ConfigError(
            key, shown, "is a new key, which nobody reads", did_you_mean(key, known) or _same_ending(key, known)
        )
    ]


def sweep_in_single_run(override: Override) -> ConfigError:
    """A sweep where one value is needed."""
    key, _, shown = str(override.input_line).partition("=")
    return ConfigError(
        key, shown, "is several values", "-m runs each of them; a list is written [1,2], a text with commas '\"1,2\"'"
    )


def list_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration with those above it, joined by dots."""
    for key in config:
        path = f"{prefix}{key}"
        yield path
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, str(key)):
            value = config[key]
            if isinstance(value, DictConfig):
                yield from list_keys(value, f"{path}.")


def _choices(override: Override) -> list[str]:
    """The values that are given; none for a glob or an interval, whose values Hydra finds later."""
    value = override.value()
    if override.is_sweep_override():
        return [str(choice) for choice in override.sweep_string_iterator()] if override.is_discrete_sweep() else []
    return [str(choice) for choice in value] if isinstance(value, list) else [str(value)]


def _needed(key: str) -> list[ConfigError]:
    return (
        [ConfigError(f"~{key}", "", f"cannot be left out: {key} has no default", f"give another: {key}=...")]
        if key in REQUIRED_KEYS
        else []
    )


def _same_ending(key: str, keys: Sequence[str]) -> str:
    """For `rounds` or `alhpa`: the nearest of the last parts of all keys."""
    whole = {known.rpartition(".")[2]: known for known in reversed(keys)}
    close = get_close_matches(key.rpartition(".")[2], whole, n=1, cutoff=0.75)
    return f"did you mean {whole[close[0]]}?" if close else ""
