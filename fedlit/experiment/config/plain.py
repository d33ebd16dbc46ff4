"""A composed configuration as plain values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.core.files import flatten
from fedlit.runs.keys import NESTED_KEYS, REQUIRED_KEYS

HOME = re.compile(r"(\$HOME|\$\{HOME\})(?=/|$)")
"""The home folder as a shell names it, at the start of a text."""


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values.

    A text that begins with ~/ or $HOME/ is a path, and begins with the home folder afterwards.

    Raises:
        ConfigErrors: if a key or a value is missing, a group has no keys, or an interpolation fails.
    """
    if errors := [*_interpolation_errors(config)]:
        raise ConfigErrors(errors)
    missing = [
        ConfigError(key, "???", "has no value", f"give one: {key}=...")
        for key in sorted(OmegaConf.missing_keys(config))
    ]
    if missing:
        raise ConfigErrors(missing)
    values: Any = expand_home_paths(OmegaConf.to_container(config, resolve=True))
    absent = [
        ConfigError(key, "", "is not in the configuration", "it has no default")
        for key in REQUIRED_KEYS
        if key not in values
    ]
    flat = [key for key in NESTED_KEYS if key in values and not isinstance(values[key], Mapping)]
    if absent or flat:
        raise ConfigErrors(
            [*absent, *(ConfigError(key, values[key], "must be a mapping of keys to values") for key in flat)]
        )
    return {str(key): value for key, value in values.items()}


def _interpolation_errors(config: DictConfig) -> Iterator[ConfigError]:
    """Yield an error for each value whose `${...}` has no value."""
    raw = flatten(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    for key, value in raw.items():
        if "${" not in str(value):
            continue
        try:
            node = OmegaConf.select(config, key, throw_on_missing=False)
            if OmegaConf.is_config(node):
                OmegaConf.to_container(node, resolve=True)
        except OmegaConfBaseException as error:
            name = re.search(r"\$\{([\w.]+)\}", str(value))
            hint = did_you_mean(name[1], raw) if name else ""
            yield ConfigError(key, value, str(error).splitlines()[0], hint or "write \\${...} for a text with a $")


def expand_home_paths(value: Any) -> Any:
    """The value with the home folder for ~ and $HOME."""
    if isinstance(value, Mapping):
        return {key: expand_home_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [expand_home_paths(one) for one in value]
    if not isinstance(value, str) or value[:1] not in ("~", "$"):
        return value
    text = HOME.sub("~", value, count=1) if HOME.match(value) else value
    return os.path.expanduser(text) if text == "~" or "/" in text else value
