"""Overrides as Hydra reads them, and errors in unreadable ones."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from fedlit.core.errors import ConfigError
from fedlit.runs.commands import quote


def read_overrides(loader: ConfigLoader, texts: Sequence[str]) -> tuple[list[Override], list[ConfigError]]:
    """Parse overrides one by one.

    Returns:
        The overrides that Hydra can read, and an error for each other text.
    """
    parser, overrides, errors, rest = OverridesParser.create(loader), list[Override](), list[ConfigError](), [*texts]
    while rest:
        text = rest.pop(0)
        if override := _parse(parser, text):
            overrides.append(override)
            continue
        split = [text]
        while split[-1].endswith(",") and rest and "=" not in rest[0]:
            split.append(rest.pop(0))
        errors.append(_split_list(parser, split) if len(split) > 1 else _unreadable(parser, text))
    return overrides, errors


def null_deletions(config: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Overrides that must come first, so that null values can be deleted.

    Hydra takes a key whose value is null for a key that does not exist.
    """
    keys = [override.key_or_group for override in overrides if override.is_delete()]
    nulls = {key for key in keys if not OmegaConf.is_missing(config, key) and OmegaConf.select(config, key) is None}
    return [f"{key}=0" for key in keys if key in nulls]


def _parse(parser: OverridesParser, text: str) -> Override | None:
    """The override; None for a text that Hydra cannot read."""
    try:
        return parser.parse_overrides([text])[0]
    except HydraException:
        return None


def _split_list(parser: OverridesParser, parts: Sequence[str]) -> ConfigError:
    """The error of a list that the shell has split."""
    problem, joined = "has a space after a comma, where the next argument begins", "".join(parts)
    return ConfigError(" ".join(parts), "", problem, f"write {joined}" if _parse(parser, joined) else "")


def _unreadable(parser: OverridesParser, text: str) -> ConfigError:
    key, equals, value = text.partition("=")
    quoted = f"{key}={quote(value)}"
    if not equals:
        return ConfigError(text, "", "has no =", "write key=value")
    if value and not set("${}[]()") & set(value) and _parse(parser, quoted):
        plain = not set(quoted) & set('"`\\!')  # nothing of it has a meaning in double quotes of a shell
        hint = f'write "{quoted}"' if plain else f"write {shlex.quote(quoted)}"
        return ConfigError(text, "", "has characters that need quotes, for Hydra and for the shell", hint)
    return ConfigError(text, "", "cannot be read", "write key=value, and quote special characters")
