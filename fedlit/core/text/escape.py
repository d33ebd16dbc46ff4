"""Escapes for values from anywhere: files, folder names, user code.

A control character in a value can move a terminal's cursor or change its title, a cell that begins with = is a formula in a
spreadsheet, and a space in a folder's name splits a command.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

FORMULA_SIGNS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""First characters of a spreadsheet's formula; the last four are the full-width forms of the first four."""


def printable(value: object, keep: str = "") -> str:
    r"""Return a value's text, with control characters such as `\x1b` visible.

    Args:
        value: any value.
        keep: characters that stay, such as a newline.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in keep else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in text
    )


def print_lines(text: object, file: TextIO | None = None) -> None:
    """Print a text of one or more lines, escaped.

    Args:
        text: any value.
        file: None for the standard error.
    """
    print(printable(text, keep="\n\t"), file=file or sys.stderr, flush=True)


def escape_tracebacks() -> None:
    """Escape this process's tracebacks: a message may hold a file's values."""

    def print_traceback(*error: Any) -> None:
        print_lines("".join(traceback.format_exception(*error)).rstrip("\n"))

    sys.excepthook = print_traceback


def short_path(path: Path) -> Path:
    """Return a path below the current folder relative to it.

    Any other path stays as it is, and so does one that a command would take for an option.
    """
    if not path.is_relative_to(Path.cwd()):
        return path
    relative = path.relative_to(Path.cwd())
    return path if str(relative).startswith("-") else relative


def shell_command(words: Sequence[object]) -> str:
    """Return a command that can be pasted into a shell."""
    return " ".join(_shell_word(str(word)) for word in words)


def spreadsheet_cell(value: Any) -> Any:
    """Return a cell's value that no spreadsheet takes for a formula.

    Numbers stay, also those that are texts.
    """
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        float(value)
        return value
    text = printable(value, keep="\n\t\r")
    return f"'{text}" if text[:1] and text[0] in FORMULA_SIGNS else text


class PrintableFormatter(logging.Formatter):
    """A formatter of log records whose values come from anywhere."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, escaped."""
        return printable(super().format(record), keep="\n\t")


def _shell_word(word: str) -> str:
    if word.isprintable():
        key, value = re.fullmatch(r"([\w.+@/-]+=(?=.))?(.*)", word, re.ASCII).groups("")  # type: ignore[union-attr]
        is_simple = "'" in value and not re.search(r'["$`\\!]', value)  # easier to read in double quotes
        return key + (f'"{value}"' if is_simple else shlex.quote(value))
    signs = (sign if sign.isprintable() and sign not in "\\'" else _hex(sign) for sign in word)
    return f"$'{''.join(signs)}'"


def _hex(sign: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(sign))
