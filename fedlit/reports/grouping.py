"""Runs that differ in the seed alone are a group; what differs between groups is their label."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.reports.runs import BROKEN, LOADER, FinishedRun, SkippedRun

SAME = (
    "seed",
    "executor",
    "observers",
    "checkpoint",
    "resume",
    "check",
    "traceback",
    "data.root",
    "faults.server",
    "sweep",
)
"""Keys that may differ within a group, with all below them: seeds, and what cannot change a result. But for the executor's
threads, on which bits depend."""
ABSENT = "-"
"""The value of a key that a configuration has not."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Args:
        settings: what tells it from the other groups, as it is typed.
        runs: by seed.
        failed: folders of its jobs that failed.
    """

    settings: Mapping[str, str]
    runs: Mapping[int, FinishedRun]
    failed: Sequence[Path] = ()

    @property
    def label(self) -> str:
        """Its settings in one line."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


def config_signature(config: Mapping[str, Any]) -> Hashable:
    """What the runs of a group have in common."""
    return frozenset((key, _frozen(value)) for key, value in config.items() if not _is_same(key))


def group_runs(runs: Sequence[FinishedRun], left: Sequence[SkippedRun]) -> tuple[list[Group], list[SkippedRun]]:
    """The groups, in the order of their settings, and the runs that are there again: the first of a seed is taken."""
    by: dict[Hashable, dict[int, FinishedRun]] = {}
    again = []
    for run in runs:
        seeds = by.setdefault(config_signature(run.config), {})
        first = seeds.setdefault(run.seed, run)
        if first is not run:
            same = first.rounds[-1].get("state_sha256") == run.rounds[-1].get("state_sha256")
            result = "the same result" if same else "ANOTHER RESULT"
            again.append(
                SkippedRun(run.folder, "again", f"seed {run.seed} with {result} is {first.folder}", run.config)
            )
    failed: dict[Hashable, list[Path]] = {key: [] for key in by}
    for one in left:
        if one.what == "failed":
            failed.get(config_signature(one.config), []).append(one.folder)
    settings = _settings([next(iter(seeds.values())) for seeds in by.values()])
    groups = [
        Group(named, dict(sorted(seeds.items())), failed[key])
        for named, (key, seeds) in zip(settings, by.items(), strict=True)
    ]
    return sorted(groups, key=lambda one: [_order(value) for value in one.settings.values()]), again


def _settings(runs: Sequence[FinishedRun]) -> list[dict[str, str]]:
    """For one run of each group: the keys that tell the groups apart, and their values."""
    keys = sorted({key for run in runs for key in run.config if not _is_same(key)})
    differ = [key for key in keys if len({_frozen(run.config.get(key, ABSENT)) for run in runs}) > 1]
    choices = [_choices(run) for run in runs]
    found: list[dict[str, str]] = [{} for _ in runs]
    for top in dict.fromkeys(key.partition(".")[0] for key in differ):
        below = [key for key in differ if key.partition(".")[0] == top]
        names = _names(top, runs, choices)
        if names is not None:
            for settings, name in zip(found, names, strict=True):
                settings[top] = name
            below = [key for key in below if not _follows(key, runs, names)]
        for settings, run in zip(found, runs, strict=True):
            settings |= {key: format_value(run.config[key]) for key in below if key in run.config}
    keys = list(dict.fromkeys(key for settings in found for key in settings))
    if not keys:  # one group: what it is, though nothing else is there
        return [{top: name for top in ("algorithm", "data", "model") if (name := _name(top, runs[0], choices[0]))}]
    return [{key: settings.get(key, ABSENT) for key in keys} for settings in found]


def _names(top: str, runs: Sequence[FinishedRun], choices: Sequence[Mapping[str, str]]) -> list[str] | None:
    """What each run chose in a group of the configuration, where that differs; by class where choices are not known."""
    for names in ([chosen.get(top) for chosen in choices], [_class(top, run) for run in runs]):
        if None not in names:
            return [str(name) for name in names] if len(set(names)) > 1 else None
    return None


def _name(top: str, run: FinishedRun, choices: Mapping[str, str]) -> str | None:
    return choices.get(top) or _class(top, run)


def _class(top: str, run: FinishedRun) -> str | None:
    target = run.config.get(f"{top}._target_")
    return None if target is None else str(target).rpartition(".")[2]


def _follows(key: str, runs: Sequence[FinishedRun], names: Sequence[str]) -> bool:
    """Whether a key's value is the same wherever the choice is."""
    pairs = {(name, _frozen(run.config.get(key, ABSENT))) for run, name in zip(runs, names, strict=True)}
    return len(pairs) == len(set(names))


def _choices(run: FinishedRun) -> dict[str, str]:
    """The choices in the configuration's groups, as Hydra recorded them, or as they were typed."""
    try:
        content = yaml.load((run.folder / ".hydra" / "hydra.yaml").read_bytes(), LOADER)
        return {key: str(value) for key, value in content["hydra"]["runtime"]["choices"].items() if value is not None}
    except BROKEN:  # a run's choices are for its label alone
        pass
    try:
        typed = json.loads((run.folder / "command.json").read_bytes())["overrides"]
        parts = [text.lstrip("+").partition("=") for text in typed]
    except BROKEN:
        return {}
    tops = {key.partition(".")[0] for key in run.config if "." in key}
    return {key: value for key, _, value in parts if key in tops}


def choose_baselines(groups: Sequence[Group], typed: str | None) -> tuple[str | None, dict[int, int]]:
    """The baseline as it is typed, and for each group's index that of the group which it is compared with: the one that has
    the baseline's settings and all other settings of its own, or the one group that is meant by what was typed, whatever its
    other settings. Without one typed, the first value of the first setting.

    Raises:
        Mistakes: if no group, or more than one, is meant.
    """
    if len(groups) < 2:
        if typed is None:
            return None, {}
        raise ConfigErrors(
            [ConfigError("--baseline", typed, "has nothing to be compared with: there is one group", "leave it out")]
        )
    first, value = next(iter(groups[0].settings.items()))
    text = typed if typed is not None else f"{first}={value}"
    asked = {key: value for key, _, value in (part.partition("=") for part in text.replace(",", " ").split())}
    offered = sorted({f"{key}={value}" for one in groups for key, value in one.settings.items()})
    for key, value in asked.items() or [("", "")]:
        if not any(_equal(one.settings.get(key), value) for one in groups):
            why = f"must be of what differs: {', '.join(offered)}"
            raise ConfigErrors([ConfigError("--baseline", text, why, did_you_mean(f"{key}={value}", offered))])
    base = [i for i, one in enumerate(groups) if all(_equal(one.settings[key], asked[key]) for key in asked)]
    found = {}
    for i, one in enumerate(groups):
        alone = typed is not None and len(base) == 1  # one group was named: all others are held against it
        partners = [] if i in base else list(base) if alone else _partners(groups, base, i, asked)
        if len(partners) > 1 and typed is not None:
            several = "; ".join(groups[j].label for j in partners)
            raise ConfigErrors(
                [
                    ConfigError(
                        "--baseline", text, f"is several groups for {one.label}: {several}", "add what tells them apart"
                    )
                ]
            )
        if len(partners) == 1:
            found[i] = partners[0]
    return text, found


def _partners(groups: Sequence[Group], base: Sequence[int], i: int, asked: Mapping[str, str]) -> list[int]:
    """Of the baseline's groups those that have the other settings of group `i`; what is below the baseline's keys may be
    another, such as FedProx's mu, but as little as can be."""
    below = tuple(f"{key}." for key in asked)

    def differing(j: int) -> list[str]:
        return [
            key for key, value in groups[i].settings.items() if key not in asked and groups[j].settings[key] != value
        ]

    keys = {j: differing(j) for j in base}
    near = {j: len(keys[j]) for j in base if all(key.startswith(below) for key in keys[j])}
    return [j for j, count in near.items() if count == min(near.values())]


def _is_same(key: str) -> bool:
    return key != "executor.threads" and any(key == same or key.startswith(f"{same}.") for same in SAME)


def _frozen(value: Any) -> Hashable:
    """The value, such that 1 and 1.0 are equal and 1 and true are not."""
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return value if plain else (json.dumps(value, default=str),)


def format_value(value: Any) -> str:
    """A value of a configuration as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _equal(a: str | None, b: str) -> bool:
    return a is not None and (a == b or _order(a) == _order(b))


def _order(text: str) -> tuple[int, float, str]:
    """Numbers by their size, before words."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
