"""Runs on the disk: found below paths, read, or left out with the reason."""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.files import flatten, read_json_lines

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one, is ten times as fast
LEAVES = {"rounds.jsonl", "summary.json", "failure.json", "partition.json", "checkpoints"}
"""One of these and a configuration make a folder a run's; a configuration alone may be anything."""
INSIDE = {"checkpoints", "tensorboard"}
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, RecursionError)
"""What reading a file raises that is not as a run leaves it."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Args:
        folder: where it lies.
        config: its configuration, by dotted keys.
        rounds: its records, of rounds 1 to the last.
        summary: of summary.json.
    """

    folder: Path
    config: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Of its random numbers."""
        return self.config["seed"]

    def values(self, name: str) -> list[float]:
        """A metric round by round; NaN where it is not in the record, or is no number."""
        return [to_float(record.get(name)) for record in self.rounds]


@dataclass(frozen=True)
class SkippedRun:
    """A run that is not in the report.

    Args:
        folder: where it lies.
        what: `unfinished`, `failed`, `unreadable`, `other metric` or `again`.
        why: for people.
        config: as far as it could be had, by dotted keys.
    """

    folder: Path
    what: str
    why: str
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)


def find_runs(paths: Sequence[Path | str]) -> list[Path]:
    """The folders of runs at and below the paths and the patterns, each once. Files that are named beside runs, as a shell
    does that puts names in the place of SWEEP/*, are passed over.

    Raises:
        Mistakes: with every path at which there is no run.
    """
    found: dict[Path, Path] = {}
    wrong, files = list[ConfigError](), list[ConfigError]()
    for path in map(Path, paths):
        places = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        folders = [folder for place in places for folder in _below(place)]
        if not places:
            wrong.append(ConfigError("PATH", path, "is not there", "name folders of runs or of sweeps, or a pattern"))
        elif not folders:
            why = "holds no run: no folder with a config.yaml and a rounds.jsonl"
            mistake = ConfigError("PATH", path, why, "name folders of runs or of sweeps, such as outputs/sweeps/NAME")
            (files if path.is_file() else wrong).append(mistake)
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    if wrong or (files and not found):
        raise ConfigErrors([*wrong, *files])
    return [*found.values()]


def is_run(folder: Path) -> bool:
    """Whether it is the folder of one run."""
    return _is_run({path.name for path in folder.iterdir()}) if folder.is_dir() else False


def _is_run(names: set[str]) -> bool:
    return ("config.yaml" in names and bool(names & LEAVES)) or {"failure.json", ".hydra"} <= names


def _below(place: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(place):
        ours = _is_run({*folders, *files})
        if ours:
            found.append(Path(folder))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not (ours and name in INSIDE))
    return found


def read_run(folder: Path) -> FinishedRun | SkippedRun:
    """The run of a folder, or why it cannot be in a report."""
    config: Mapping[str, Any] = {}
    name = "config.yaml"
    try:
        if not (folder / name).is_file():
            name = ".hydra/config.yaml"  # of a job that failed before it began
        config = read_config(folder / name)
        name = "summary.json"
        if not (folder / name).is_file():
            return _without_summary(folder, config)
        summary = json.loads((folder / name).read_bytes())
        for key in ("best", "last"):
            _ = summary[key]["round"], summary[key]["metrics"].items(), summary.get("digest", {}).items()
        name = "rounds.jsonl"
        ran = FinishedRun(folder, config, read_records(folder)[0], summary)
        if not ran.rounds or len(ran.rounds) != summary["rounds"]:
            raise ValueError(f"has {len(ran.rounds)} rounds, and summary.json {summary['rounds']}")
        for record in ran.rounds:
            _ = record["comm/up_bytes"] + record["comm/down_bytes"] + record["time/round_s"]
            _ = [failure["outcome"] for failure in record["failures"]]
    except BROKEN as error:
        return SkippedRun(folder, "unreadable", f"{name}: {_said(error)}", config)
    if not isinstance(config.get("seed"), int) or not isinstance(config.get("monitor.name"), str):
        return SkippedRun(folder, "unreadable", "config.yaml has no seed or no monitor.name", config)
    return ran


def _without_summary(folder: Path, config: Mapping[str, Any]) -> SkippedRun:
    if (folder / "failure.json").is_file():
        reasons = json.loads((folder / "failure.json").read_bytes())["reasons"]
        return SkippedRun(folder, "failed", "; ".join(map(str, reasons)), config)
    done = len(read_records(folder)[0]) if (folder / "rounds.jsonl").is_file() else 0
    asked = config.get("schedule.rounds", "?")
    return SkippedRun(folder, "unfinished", f"{done} of {asked} rounds are done", config)


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file as values by dotted keys."""
    content = yaml.load(path.read_bytes(), LOADER)
    if not isinstance(content, Mapping):
        raise ValueError("is not a configuration")
    return flatten(content)


def read_records(folder: Path) -> tuple[list[dict[str, Any]], bool]:
    """The records of a run's rounds, from 1 on, and whether a last line was cut off, which a killed run may leave.

    Raises:
        ValueError: if a line is not a record, or a round is missing.
    """
    found, cut = read_json_lines(folder / "rounds.jsonl")
    if [record["round"] for record in found] != [*range(1, len(found) + 1)]:
        raise ValueError("is not rounds 1, 2, 3, ... in their order")
    return found, cut


def to_float(value: Any) -> float:
    """The value as a float; NaN where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"has no {text}" if isinstance(error, KeyError) else text or type(error).__name__
