"""Commands that run or resume a run, and quotes of values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedlit.core.text.escape import shell_command
from fedlit.runs.folder import READ_ERRORS, read_job
from fedlit.runs.layout import COMMAND

UNSAFE = re.compile(r"^-|\$|_target_|hydra\b")
"""Parts of overrides that are flags, name classes, call resolvers or change Hydra itself."""


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


def train_command(folder: Path, overrides: Sequence[str], flags: Sequence[str] = ()) -> str:
    """Return the command that runs a job alone, in its folder.

    A run that has begun is resumed.

    Args:
        folder: the job's folder.
        overrides: the job's overrides.
        flags: flags of the command, such as --config-dir.
    """
    words = [*flags, *overrides, f"hydra.run.dir={quote_if_needed(folder)}"]
    if (folder / COMMAND).is_file():
        words = [*flags, f"resume={quote_if_needed(folder)}"]
    return shell_command(["python", "-m", "fedlit.train", *words])


def command_of_folder(folder: Path) -> str | None:
    """Return the command that runs or resumes the run in a folder.

    Anybody may have written the folder, and a command line is trusted. So the result is None if the job has not begun and its
    overrides have a part of `UNSAFE`. A run that is resumed is checked.
    """
    if (folder / COMMAND).is_file():
        return train_command(folder, ())
    try:
        overrides = [str(text) for text in read_job(folder)["overrides"]]
    except READ_ERRORS:  # no job of a sweep
        return None
    return None if any(map(UNSAFE.search, overrides)) else train_command(folder, overrides)
