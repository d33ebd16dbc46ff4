"""The texts of overrides: parts, quotes, and the home folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from fedlit.runs.commands import quote

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
