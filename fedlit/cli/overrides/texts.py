"""The texts of overrides: parts, quotes, and the home folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

HOME_PATH = re.compile(r"""(?<=[=,\[({:\s])(~[\w.-]*|\$HOME|\$\{HOME\})(?=[/,\])}]|$)[^,\])}\s]*""")
"""A path in a value without quotes that begins with the home folder."""


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


def expand_home(arguments: Sequence[str]) -> list[str]:
    """The arguments with the home folder for ~ and $HOME.

    A shell expands ~ only at the start of an argument, and Hydra reads no ~ without quotes. A value in quotes stays: it is
    expanded when the configuration is composed.
    """
    return [_expand_argument(argument) for argument in arguments]


def _expand_argument(argument: str) -> str:
    name, _, value = argument.partition("=")
    if "'" in value or '"' in value:
        return argument
    is_flag = name.startswith("--")
    return HOME_PATH.sub(lambda match: _expand(match[0], is_flag), argument)


def _expand(text: str, is_flag: bool) -> str:
    path = os.path.expanduser(re.sub(r"^(\$HOME|\$\{HOME\})", "~", text))
    return text if path == text else path if is_flag else quote(path)
