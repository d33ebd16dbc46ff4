"""Checks of one command-line override: do its group, choice and key exist?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from fedlit.cli.hydra_internals import list_options, list_subgroups, load_option
from fedlit.cli.overrides.suggestions import KeyTree, list_keys, similar_keys
from fedlit.cli.overrides.texts import value_text
from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.runs.keys import REQUIRED_KEYS, TOP_KEYS, row_of

CUSTOM = "custom"
"""The choice of a group that takes a class or function of the user."""


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
    lists = _list_choices(override)
    if lists and not row_of(group).has_many_choices:
        first = str(lists[0][0]) if lists[0] else "CHOICE"
        hint = f"write {group}={first}; -m {group}={','.join(map(str, lists[0]))} starts a run for each"
        return [ConfigError(group, value_text(override), "merges several choices, and a group has one", hint)]
    options = list_options(loader, group)
    problem, choices = f"must be one of {', '.join(options)}", _single_choices(override, lists)
    return [
        ConfigError(group, choice, problem, _choice_hint(group, choice, options))
        for choice in choices
        if choice not in options
    ]


def _choice_hint(group: str, choice: str, options: Sequence[str]) -> str:
    """Advice about a choice that a group does not have."""
    if choice == "None":
        return "leave it out to take the default"
    hint = did_you_mean(choice, options)
    if hint or CUSTOM not in options:
        return hint
    path = choice if re.fullmatch(r"\w+(\.\w+)+", choice) else "my_file.NAME"
    return f"{group}={CUSTOM} {group}._target_={path} takes one of your own"


def redundant_add(override: Override) -> ConfigError:
    """The error of a + before a group with a choice."""
    group, choice = override.key_or_group, _choices(override)[0]
    return ConfigError(group, choice, "adds a group that is in the configuration", f"write {group}={choice}, without +")


def key_errors(tree: KeyTree, override: Override) -> list[ConfigError]:
    """Return the errors in the key of an override.

    Args:
        tree: the keys of the configuration of the choices alone.
        override: one override of a key.
    """
    key, value = override.key_or_group, value_text(override)
    if override.is_force_add():
        return []
    if override.is_add():
        is_scalar = key in tree.keys and isinstance(OmegaConf.select(tree.config, key), str | int | float)
        error = ConfigError(key, value, "adds a key that is in the configuration", f"write {key}={value}, without +")
        return [error] if is_scalar else []
    if key in tree.keys:
        return _required_key_errors(key) if override.is_delete() else []
    return [tree.unknown_key(override)]


def key_of_other_choice(
    loader: ConfigLoader, tree: KeyTree, choices: Mapping[str, str], override: Override
) -> list[ConfigError]:
    """The error of a key that only other choices have; or empty.

    The other choices may have a similar key.

    Args:
        loader: Hydra's loader of configurations.
        tree: the keys of the configuration.
        choices: the current choice of each group.
        override: one override of a key that the configuration does not have.
    """
    key = override.key_or_group
    group, _, rest = key.partition(".")
    if group not in choices or override.is_add() or override.is_force_add():
        return []
    configs = {option: load_option(loader, group, option) for option in list_options(loader, group)}
    keys = {f"{group}={option}": [*list_keys(config)] for option, config in configs.items() if config is not None}
    known, problem = rest, f"is not a key of {group}={choices[group]}"
    if not similar_keys(key, tree.keys) and not any(rest in names for names in keys.values()):
        known = next(iter(similar_keys(rest, [name for names in keys.values() for name in names])), "")
    options = [option for option, names in keys.items() if known and known in names]
    if not options:
        return []
    *first, last = options
    hint = f"{', '.join(first)} and {last} have the key" if first else f"{last} has the key"
    if tree.has_own_class(group):
        hint = f"+{group}.{known}={value_text(override)} adds the key"
    hint = hint if known == rest else f"did you mean {group}.{known}? {hint}"
    return [ConfigError(key, value_text(override), problem, hint)]


def adds_top_key(config: DictConfig, override: Override) -> bool:
    """True if an override adds a top key to the configuration."""
    has_plus = override.is_add() or override.is_force_add()
    return has_plus and override.key_or_group.partition(".")[0] not in config


def unused_key(text: str, tree: KeyTree, override: Override) -> list[ConfigError]:
    """Return the error of an unused top key, or an empty list.

    An unused key is new, without a reference and without a meaning of its own.

    Args:
        text: text in which `${...}` refers to keys.
        tree: the keys of the configuration.
        override: an override that adds a top key.
    """
    references = {name for part in re.findall(r"\$\{([^}]*)", text) for name in re.findall(r"\w+", part)}
    if override.key_or_group.partition(".")[0] in (*TOP_KEYS, *references):  # `channel` is in no configuration
        return []
    return [tree.unused_key(override)]


def sweep_in_single_run(override: Override) -> ConfigError:
    """The error of several values in the command of a single run."""
    key, _, value = str(override.input_line).partition("=")
    hint = "-m starts a run for each value; write a list as [1,2], and a text with commas as '\"1,2\"'"
    return ConfigError(key, value, "has several values, and a single run needs one", hint)


def _choices(override: Override) -> list[str]:
    """The values of an override; empty for a glob or interval."""
    if override.is_sweep_override():
        return [str(choice) for choice in override.sweep_string_iterator()] if override.is_discrete_sweep() else []
    return [str(override.value())]


def _single_choices(override: Override, lists: Sequence[Sequence[Any]]) -> list[str]:
    """The values of an override, each of its lists as its parts."""
    parts = [str(part) for values in lists for part in values]
    return parts if lists else _choices(override)


def _list_choices(override: Override) -> list[list[Any]]:
    """The lists among the values of an override."""
    if not override.is_sweep_override():
        values = [override.value()]
    else:
        values = list(override.sweep_iterator()) if override.is_discrete_sweep() else []
    return [value for value in values if isinstance(value, list)]


def _required_key_errors(key: str) -> list[ConfigError]:
    if key not in REQUIRED_KEYS:
        return []
    return [ConfigError(f"~{key}", "", f"cannot be left out: every run needs {key}", f"give another value: {key}=...")]
