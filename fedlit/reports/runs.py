"""Runs for a report: a search below paths, and skipped runs."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.files import unreadable_reason
from fedlit.runs.folder import (
    READ_ERRORS,
    FinishedRun,
    InvalidRun,
    has_run_files,
    is_finished,
    load_run,
    read_command,
    read_failure,
    read_flat_config,
    read_records,
)
from fedlit.runs.layout import CHECKPOINTS, CONFIG, FAILURE, HYDRA_CONFIG, JOURNAL, TENSORBOARD

PRUNED = {CHECKPOINTS, TENSORBOARD}
"""Folders within a run's folder that the search does not enter."""
SEED = "${seed}"
"""Reference to the seed in an override, such as `model.init_from=weights/${seed}.safetensors`."""
MAX_LISTED_RUNS = 10
"""Skipped runs with a line each in a message or on the terminal; report.md lists all of them."""


@dataclass(frozen=True)
class SkippedRun:
    """A run that is not in the report.

    Args:
        folder: folder of the run.
        kind: `unfinished`, `failed`, `unreadable`, `other metric` or `again`.
        reason: description for the user.
        config: the configuration by dotted keys; empty if it is not readable.
    """

    folder: Path
    kind: str
    reason: str
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)


def find_runs(paths: Sequence[Path | str]) -> list[Path]:
    """Return the folders of runs at and below paths and patterns.

    A path of a file is ignored if other paths lead to runs: a shell expands SWEEP/* to files too.

    Raises:
        ConfigErrors: with every path that leads to no run.
    """
    runs: dict[Path, Path] = {}
    errors, file_errors = list[ConfigError](), list[ConfigError]()
    for path in map(Path, paths):
        if reason := unreadable_reason(path):
            errors.append(ConfigError("PATH", path, f"cannot be read: {reason}"))
            continue
        places = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        folders = [folder for place in places for folder in _runs_below(place)]
        if not places:
            hint = "name folders of runs or of sweeps, or a pattern"
            errors.append(ConfigError("PATH", path, "does not exist", hint))
        elif not folders:
            problem = f"contains no run: no folder with a {CONFIG} and a {JOURNAL}"
            hint = "name folders of runs or of sweeps, such as outputs/sweeps/NAME"
            (file_errors if path.is_file() else errors).append(ConfigError("PATH", path, problem, hint))
        for folder in folders:
            runs.setdefault(folder.resolve(), folder)
    if errors or (file_errors and not runs):
        raise ConfigErrors([*errors, *file_errors])
    return [*runs.values()]


def _runs_below(place: Path) -> list[Path]:
    runs = []
    for folder, subfolders, files in os.walk(place):
        is_run_folder = has_run_files({*subfolders, *files})
        if is_run_folder:
            runs.append(Path(folder))
        names = (name for name in subfolders if not name.startswith("."))
        subfolders[:] = sorted(name for name in names if not (is_run_folder and name in PRUNED))
    return runs


def read_run(folder: Path) -> FinishedRun | SkippedRun:
    """Return the run in a folder, or the reason to skip it."""
    try:
        run = load_run(folder) if is_finished(folder) else _unfinished_run(folder)
    except InvalidRun as error:
        return SkippedRun(folder, "unreadable", str(error), _config_or_empty(folder))
    if isinstance(run, SkippedRun):
        return run
    config = run.flat_config
    if not isinstance(config.get("seed"), int) or not isinstance(config.get("monitor.name"), str):
        return SkippedRun(folder, "unreadable", f"{CONFIG} has no seed or no monitor.name", config)
    return replace(run, flat_config=_refer_to_seed(folder, config))


def _unfinished_run(folder: Path) -> SkippedRun:
    config = _refer_to_seed(folder, read_flat_config(folder, _config_file(folder)))
    if (folder / FAILURE).is_file():
        return SkippedRun(folder, "failed", "; ".join(read_failure(folder)), config)
    done = len(read_records(folder)[0]) if (folder / JOURNAL).is_file() else 0
    rounds = config.get("schedule.rounds", "?")
    return SkippedRun(folder, "unfinished", f"{done} of {rounds} rounds are done", config)


def _refer_to_seed(folder: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with its overrides' references to the seed.

    The runs of a group differ in such a value, but only by the seed.
    """
    try:
        overrides = [str(text).lstrip("+").partition("=") for text in read_command(folder)["overrides"]]
    except READ_ERRORS:  # without the command the values stay as they are
        return config
    texts = {key: text.replace("\\{", "{").replace("\\}", "}").strip("'\"") for key, _, text in overrides}
    seed = str(config.get("seed"))
    made = {key: text for key, text in texts.items() if SEED in text and key in config}
    return {**config, **{key: text for key, text in made.items() if text.replace(SEED, seed) == str(config[key])}}


def _config_file(folder: Path) -> str:
    return CONFIG if (folder / CONFIG).is_file() else HYDRA_CONFIG  # a job that failed before its run began has Hydra's


def _config_or_empty(folder: Path) -> Mapping[str, Any]:
    try:
        return read_flat_config(folder, _config_file(folder))
    except InvalidRun:
        return {}
