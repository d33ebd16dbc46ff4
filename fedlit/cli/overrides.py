"""Checks of one command-line override: do its group, choice and key exist?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from fedlit.cli.hydra_internals import list_options, list_subgroups, load_option
from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.runs.keys import REQUIRED_KEYS, TOP_KEYS


def list_groups(loader: ConfigLoader, parent: str = "") -> list[str]:
    """Names of all groups below a parent; nested groups have a slash."""
    subgroups = list_subgroups(loader, parent)
    names = [f"{parent}/{name}".lstrip("/") for name in subgroups if not name.startswith((".", "_"))]
    return names + [inner for name in names if name != "hydra" for inner in list_groups(loader, name)]


def group_errors(loader: ConfigLoader, groups: Sequence[str], override: Override) -> list[ConfigError]:
    """Return the errors in the choice of a group.

    Args:
        loader: Hydra's loader of configurations.
        groups: names of all groups.
        override: one override of a group.
    """
    group = override.key_or_group
    if group not in groups:
        return [ConfigError(group, (*_choices(override), "")[0], "is not a group", did_you_mean(group, groups))]
    if override.is_delete():
        return _required_key_errors(group)
    options = list_options(loader, group)
    return [
        ConfigError(
            group,
            choice,
            f"must be one of {', '.join(options)}",
            "leave it out to take the default" if choice == "None" else did_you_mean(choice, options),
        )
        for choice in _choices(override)
        if choice not in options
    ]


def redundant_add(override: Override) -> ConfigError:
    """The error of a + before a group with a choice."""
    group, choice = override.key_or_group, _choices(override)[0]
    return ConfigError(group, choice, "adds a group that is in the configuration", f"write {group}={choice}, without +")


def key_errors(config: DictConfig, keys: Sequence[str], groups: Sequence[str], override: Override) -> list[ConfigError]:
    """Return the errors in the key of an override.

    Args:
        config: the configuration of the choices alone.
        keys: all keys of that configuration.
        groups: names of all groups.
        override: one override of a key.
    """
    key, value = override.key_or_group, value_text(override)
    if override.is_force_add():
        return []
    if override.is_add():
        is_scalar = key in keys and isinstance(OmegaConf.select(config, key), str | int | float)
        error = ConfigError(key, value, "adds a key that is in the configuration", f"write {key}={value}, without +")
        return [error] if is_scalar else []
    if key in keys:
        return _required_key_errors(key) if override.is_delete() else []
    hints = [did_you_mean(key, [*keys, *groups]) or _similar_last_part(key, keys)]
    if key.rpartition(".")[0] in keys and not override.is_delete():
        hints.append(f"+{key}={value} adds a new key")
    return [ConfigError(key, value, "is not a key of the configuration", "; ".join(filter(None, hints)))]


def key_of_other_choice(loader: ConfigLoader, choices: Mapping[str, str], override: Override) -> list[ConfigError]:
    """The error of a key that only other choices have; or empty.

    Args:
        loader: Hydra's loader of configurations.
        choices: the current choice of each group.
        override: one override of a key that the configuration does not have.
    """
    key = override.key_or_group
    group, _, rest = key.partition(".")
    if group not in choices or override.is_add() or override.is_force_add():
        return []
    configs = {option: load_option(loader, group, option) for option in list_options(loader, group)}
    names = [
        f"{group}={option}" for option, config in configs.items() if config is not None and rest in list_keys(config)
    ]
    if not names:
        return []
    *first_names, last = names
    hint = f"{', '.join(first_names)} and {last} have the key" if first_names else f"{last} has the key"
    return [ConfigError(key, value_text(override), f"is not a key of {group}={choices[group]}", hint)]


def adds_top_key(config: DictConfig, override: Override) -> bool:
    """True if an override adds a top key to the configuration."""
    has_plus = override.is_add() or override.is_force_add()
    return has_plus and override.key_or_group.partition(".")[0] not in config


def unused_key(text: str, config: DictConfig, override: Override) -> list[ConfigError]:
    """Return the error of an unused top key, or an empty list.

    An unused key is new, without a reference and without a meaning of its own.

    Args:
        text: text in which `${...}` refers to keys.
        config: the configuration.
        override: an override that adds a top key.
    """
    key = override.key_or_group
    references = {name for part in re.findall(r"\$\{([^}]*)", text) for name in re.findall(r"\w+", part)}
    if key.partition(".")[0] in (*TOP_KEYS, *references):  # `channel` is optional, so no configuration has it
        return []
    keys = [*list_keys(config)]
    hint = did_you_mean(key, keys) or _similar_last_part(key, keys)
    return [ConfigError(key, value_text(override), "is a new key that nothing uses", hint)]


def sweep_in_single_run(override: Override) -> ConfigError:
    """The error of several values in the command of a single run."""
    key, _, value = str(override.input_line).partition("=")
    hint = "-m starts a run for each value; write a list as [1,2], and a text with commas as '\"1,2\"'"
    return ConfigError(key, value, "has several values, and a single run needs one", hint)


def list_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a configuration, parents first."""
    for key in config:
        path = f"{prefix}{key}"
        yield path
        if not OmegaConf.is_missing(config, key) and not OmegaConf.is_interpolation(config, str(key)):
            value = config[key]
            if isinstance(value, DictConfig):
                yield from list_keys(value, f"{path}.")


def value_text(override: Override) -> str:
    """The text after the = of an override."""
    return str(override.input_line).partition("=")[2]


def first_value(override: Override) -> str:
    """The override with its first value alone, as Hydra reads it."""
    if not override.is_sweep_override():
        return str(override.input_line)
    if not override.is_discrete_sweep():
        return f"+_swept.{override.key_or_group.replace('/', '_')}=null"
    return f"{str(override.input_line).partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"


def quote(value: object) -> str:
    """A value as one word that Hydra reads without changes."""
    # a backslash before a quote is an escape, and a quote ends the text
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), str(value)) + "'"


def quote_if_needed(value: object) -> str:
    """A value as Hydra reads it, quoted if it has special characters."""
    return str(value) if re.fullmatch(r"[\w./-]+( [\w./-]+)*", str(value), re.ASCII) else quote(value)


def unquote(text: str) -> str:
    """The value of `key=value`, without quotes around the value."""
    value = text.partition("=")[2]
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return value
    # as Hydra reads it: half of the backslashes before a quote, or before the end
    return re.sub(rf"(\\+)({value[0]}|$)", lambda match: "\\" * (len(match[1]) // 2) + match[2], value[1:-1])


def _choices(override: Override) -> list[str]:
    """The values of an override; empty for a glob or interval."""
    value = override.value()
    if override.is_sweep_override():
        return [str(choice) for choice in override.sweep_string_iterator()] if override.is_discrete_sweep() else []
    return [str(choice) for choice in value] if isinstance(value, list) else [str(value)]


def _required_key_errors(key: str) -> list[ConfigError]:
    if key not in REQUIRED_KEYS:
        return []
    return [ConfigError(f"~{key}", "", f"cannot be left out: every run needs {key}", f"give another value: {key}=...")]


def _similar_last_part(key: str, keys: Sequence[str]) -> str:
    """A hint for `rounds` or `alhpa`; an empty string without one."""
    key_by_last_part = {known.rpartition(".")[2]: known for known in reversed(keys)}
    matches = get_close_matches(key.rpartition(".")[2], key_by_last_part, n=1, cutoff=0.75)
    return f"did you mean {key_by_last_part[matches[0]]}?" if matches else ""
