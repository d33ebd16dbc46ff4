"""A composed configuration as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.runs.keys import NESTED_KEYS, REQUIRED_KEYS


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values.

    Raises:
        ConfigErrors: if a key or a value is missing, a group has no keys, or an interpolation fails.
    """
    missing = [
        ConfigError(key, "???", "has no value", f"give one: {key}=...")
        for key in sorted(OmegaConf.missing_keys(config))
    ]
    if missing:
        raise ConfigErrors(missing)
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigErrors([ConfigError(str(error.full_key), "", str(error).splitlines()[0])]) from error
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
