"""Readers of a run's folder and of its files.

Every reader raises `InvalidRun` with the name of the file. No reader imports torch, or anything that a file names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.files import flatten, read_json_lines, unreadable_reason
from fedlit.runs.layout import CHECKPOINTS, COMMAND, CONFIG, FAILURE, HYDRA, JOB, JOURNAL, PARTITION, SUMMARY
from fedlit.runs.parsing import read_json, read_yaml

RUN_FILES = frozenset({JOURNAL, SUMMARY, FAILURE, PARTITION, CHECKPOINTS})
"""Names of which a run's folder has at least one, besides the configuration: other folders can have a config.yaml too."""
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, RecursionError)
"""Exceptions from reading a file whose content is not what a run writes."""


class InvalidRun(ValueError):
    """A file of a run's folder is missing or invalid.

    Args:
        file: name of the file in the folder.
        problem: description of the problem.
    """

    def __init__(self, file: str, problem: str) -> None:
        self.file, self.problem = file, problem
        super().__init__(f"{file}: {problem}")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Args:
        folder: folder of the run.
        config: the resolved configuration, as nested mappings.
        flat_config: the same values by dotted keys.
        records: records of rounds 1 to the last.
        summary: content of summary.json.
    """

    folder: Path
    config: Mapping[str, Any]
    flat_config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.flat_config["seed"]

    def metric_values(self, name: str) -> list[float]:
        """A metric's values by round; NaN where records lack a finite number."""
        return [to_float(record.get(name)) for record in self.records]


def load_run(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        InvalidRun: if a file is missing, or its content is not what a finished run writes.
    """
    config = read_config(folder)
    with _reading(CONFIG):
        flat_config = flatten(config)
    summary = read_summary(folder)
    with _reading(SUMMARY):
        for key in ("best", "last"):
            _ = summary[key]["round"], summary[key]["metrics"].items(), summary.get("digest", {}).items()
    records, _ = read_records(folder)
    with _reading(JOURNAL):
        if not records or len(records) != summary["rounds"]:
            raise ValueError(f"has {len(records)} rounds, but {SUMMARY} has {summary['rounds']}")
        for record in records:
            _ = record["comm/up_bytes"] + record["comm/down_bytes"] + record["time/round_s"]
            _ = [failure["outcome"] for failure in record["failures"]]
    return FinishedRun(folder, config, flat_config, records, summary)


def is_run(folder: Path) -> bool:
    """Return True if the folder is the folder of one run."""
    return folder.is_dir() and has_run_files({path.name for path in folder.iterdir()})


def has_run_files(names: AbstractSet[str]) -> bool:
    """Return True if a run's folder has these names in it."""
    return (CONFIG in names and bool(names & RUN_FILES)) or {FAILURE, HYDRA} <= names


def is_finished(folder: Path) -> bool:
    """Return True if the run in the folder is finished."""
    return (folder / SUMMARY).is_file()


def require_files(folder: Path, names: Sequence[str], key: str, hint: str) -> None:
    """Check that the user's folder is readable and has the files.

    Args:
        folder: folder of a run.
        names: file names, relative to the folder; without any a folder that does not exist is no error.
        key: name of the argument that gave the folder.
        hint: advice for the user.

    Raises:
        ConfigErrors: with the first file that is missing, or the reason why none can be read.
    """
    if reason := unreadable_reason(folder):
        raise ConfigErrors([ConfigError(key, folder, f"cannot be read: {reason}", hint)])
    for name in names:
        if not (folder / name).is_file():
            raise ConfigErrors([ConfigError(key, folder, f"has no {name}", hint)])


@contextmanager
def user_errors(folder: Path, key: str, hint: str) -> Iterator[None]:
    """Raise ConfigErrors instead of the block's InvalidRun. For the arguments see `require_files`."""
    try:
        yield
    except InvalidRun as error:
        raise ConfigErrors([ConfigError(key, folder, f"has an invalid {error}", hint)]) from error


def read_config(folder: Path, file: str = CONFIG) -> dict[str, Any]:
    """The configuration of a run, as nested mappings.

    Raises:
        InvalidRun: if the file is missing or is not a configuration.
    """
    with _reading(file):
        content = read_yaml(folder / file)
        if not isinstance(content, Mapping):
            raise ValueError("is not a configuration")
        return dict(content)


def read_flat_config(folder: Path, file: str = CONFIG) -> dict[str, Any]:
    """The configuration of a run, by dotted keys.

    Raises:
        InvalidRun: if the file is missing or is not a configuration.
    """
    config = read_config(folder, file)
    with _reading(file):
        return flatten(config)


def read_records(folder: Path) -> tuple[list[dict[str, Any]], bool]:
    """Read the records of a run's rounds.

    Returns:
        The records of rounds 1, 2, 3, ...; and True if the file ends in a truncated line, which is not read. A run that was
        killed can leave such a line.

    Raises:
        InvalidRun: if the file is missing, a line is not a record, or a round is missing.
    """
    with _reading(JOURNAL):
        records, is_truncated = read_json_lines(folder / JOURNAL)
        if [record["round"] for record in records] != [*range(1, len(records) + 1)]:
            raise ValueError("must have the rounds 1, 2, 3, ... in this order")
        if not all(isinstance(client, int) for record in records for client in record["cohort"]):
            raise ValueError("has a client that is not a number")
    return records, is_truncated


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        InvalidRun: if the file is missing or is not a JSON object.
    """
    return _read_json(folder, SUMMARY)


def read_command(folder: Path) -> dict[str, Any]:
    """The command-line `overrides` and `flags` of a run.

    Raises:
        InvalidRun: if the file is missing or is not a JSON object.
    """
    return _read_json(folder, COMMAND)


def read_job(folder: Path) -> dict[str, Any]:
    """The `overrides` of a sweep's job, and the sweep command's `call`.

    Raises:
        InvalidRun: if the file is missing or is not a JSON object.
    """
    return _read_json(folder, JOB)


def read_failure(folder: Path) -> list[str]:
    """The reasons of a sweep's job that failed.

    Raises:
        InvalidRun: if the file is missing or has no reasons.
    """
    content = _read_json(folder, FAILURE)
    with _reading(FAILURE):
        return [str(reason) for reason in content["reasons"]]


def to_float(value: Any) -> float:
    """Return a finite number as a float, and NaN for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # a whole number of JSON has any size
        return math.nan


def _read_json(folder: Path, file: str) -> dict[str, Any]:
    with _reading(file):
        content = read_json(folder / file)
        if not isinstance(content, dict):
            raise ValueError("is not a JSON object")
        return content


@contextmanager
def _reading(file: str) -> Iterator[None]:
    """Raise InvalidRun with the file's name for each of READ_ERRORS."""
    try:
        yield
    except READ_ERRORS as error:
        raise InvalidRun(file, _problem(error)) from error


def _problem(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return "file not found"
    return f"has no {text}" if isinstance(error, KeyError) else text or type(error).__name__
