"""Groups of runs, their labels, and their baselines.

The runs of a group differ in the seed alone.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.reports.runs import SkippedRun
from fedlit.runs.folder import READ_ERRORS, FinishedRun, read_command, read_yaml
from fedlit.runs.keys import row_of
from fedlit.runs.layout import HYDRA_SETTINGS

ABSENT = "-"
"""The value of a key that a configuration does not have."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Args:
        settings: keys whose values differ between groups, with this group's values as command-line text.
        runs: runs by seed.
        failed_jobs: folders of jobs with the same configuration that failed.
    """

    settings: Mapping[str, str]
    runs: Mapping[int, FinishedRun]
    failed_jobs: Sequence[Path] = ()

    @property
    def label(self) -> str:
        """The settings in one line."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())


def config_signature(config: Mapping[str, Any]) -> Hashable:
    """Return the values of a configuration that separate groups."""
    return frozenset((key, _hashable(value)) for key, value in config.items() if row_of(key).separates_groups)


def group_runs(runs: Sequence[FinishedRun], skipped: Sequence[SkippedRun]) -> tuple[list[Group], list[SkippedRun]]:
    """Group runs by their configuration without the seed.

    Args:
        runs: finished runs.
        skipped: runs that the report skips; failed jobs among them are counted in their groups.

    Returns:
        The groups in the order of their settings; and the duplicate runs. Of several runs with one seed the first is taken.
    """
    by_signature: dict[Hashable, dict[int, FinishedRun]] = {}
    duplicates = []
    for run in runs:
        seeds = by_signature.setdefault(config_signature(run.flat_config), {})
        first = seeds.setdefault(run.seed, run)
        if first is not run:
            is_identical = first.records[-1].get("state_sha256") == run.records[-1].get("state_sha256")
            result = "the same result" if is_identical else "a DIFFERENT RESULT"
            reason = f"seed {run.seed} is already read from {first.folder}, with {result}"
            duplicates.append(SkippedRun(run.folder, "again", reason, run.flat_config))
    failed: dict[Hashable, list[Path]] = {signature: [] for signature in by_signature}
    for job in skipped:
        if job.kind == "failed":
            failed.get(config_signature(job.config), []).append(job.folder)
    settings = _group_settings([next(iter(seeds.values())) for seeds in by_signature.values()])
    groups = [
        Group(group_settings, dict(sorted(seeds.items())), failed[signature])
        for group_settings, (signature, seeds) in zip(settings, by_signature.items(), strict=True)
    ]
    return sorted(groups, key=lambda group: [_sort_key(value) for value in group.settings.values()]), duplicates


def _group_settings(runs: Sequence[FinishedRun]) -> list[dict[str, str]]:
    """Return the settings that differ between groups, for one run of each."""
    keys = sorted({key for run in runs for key in run.flat_config if row_of(key).separates_groups})
    differing = [key for key in keys if len({_hashable(run.flat_config.get(key, ABSENT)) for run in runs}) > 1]
    choices = [_read_choices(run) for run in runs]
    all_settings: list[dict[str, str]] = [{} for _ in runs]
    for top in dict.fromkeys(key.partition(".")[0] for key in differing):
        below = [key for key in differing if key.partition(".")[0] == top]
        names = _choice_names(top, runs, choices)
        if names is not None:
            for settings, name in zip(all_settings, names, strict=True):
                settings[top] = name
            below = [key for key in below if not _follows_choice(key, runs, names)]
        for settings, run in zip(all_settings, runs, strict=True):
            settings |= {key: format_value(run.flat_config[key]) for key in below if key in run.flat_config}
    keys = list(dict.fromkeys(key for settings in all_settings for key in settings))
    if not keys:  # one group is named by its choices, though no other group differs from it
        tops = ("algorithm", "data", "model")
        return [{top: name for top in tops if (name := choices[0].get(top) or _class_name(top, runs[0]))}]
    return [{key: settings.get(key, ABSENT) for key in keys} for settings in all_settings]


def _choice_names(top: str, runs: Sequence[FinishedRun], choices: Sequence[Mapping[str, str]]) -> list[str] | None:
    """Return each run's choice in a configuration group, or None.

    The result is None if all choices are equal. If choices are unknown, the names are class names.
    """
    for names in ([choice.get(top) for choice in choices], [_class_name(top, run) for run in runs]):
        if None not in names:
            return [str(name) for name in names] if len(set(names)) > 1 else None
    return None


def _class_name(top: str, run: FinishedRun) -> str | None:
    target = run.flat_config.get(f"{top}._target_")
    return None if target is None else str(target).rpartition(".")[2]


def _follows_choice(key: str, runs: Sequence[FinishedRun], names: Sequence[str]) -> bool:
    """Return True if the choice determines the value of the key."""
    pairs = {(name, _hashable(run.flat_config.get(key, ABSENT))) for run, name in zip(runs, names, strict=True)}
    return len(pairs) == len(set(names))


def _read_choices(run: FinishedRun) -> dict[str, str]:
    """Read the choices in the configuration groups, by group.

    They are recorded by Hydra, or else taken from the command-line overrides.
    """
    try:
        choices = read_yaml(run.folder / HYDRA_SETTINGS)["hydra"]["runtime"]["choices"]
        return {key: str(value) for key, value in choices.items() if value is not None}
    except READ_ERRORS:  # choices only name a group: without them its classes do
        pass
    try:
        parts = [text.lstrip("+").partition("=") for text in read_command(run.folder)["overrides"]]
    except READ_ERRORS:
        return {}
    tops = {key.partition(".")[0] for key in run.flat_config if "." in key}
    return {key: value for key, _, value in parts if key in tops}


def choose_baselines(groups: Sequence[Group], baseline: str | None) -> tuple[str | None, dict[int, int]]:
    """Choose the group with which each group is compared.

    Each group is compared with the baseline group that has the same other settings. If `baseline` names exactly one group,
    all other groups are compared with that group.

    Args:
        groups: groups of the report.
        baseline: `KEY=VALUE` pairs; None for the first value of the first setting.

    Returns:
        The baseline as text, None for a single group; and a mapping from a group's index to its baseline's index.

    Raises:
        ConfigErrors: if the baseline matches no group, or several groups for one group.
    """
    if len(groups) < 2:
        if baseline is None:
            return None, {}
        problem = "needs a second group for the comparison, and there is only one group"
        raise ConfigErrors([ConfigError("--baseline", baseline, problem, "leave out --baseline")])
    first, value = next(iter(groups[0].settings.items()))
    text = baseline if baseline is not None else f"{first}={value}"
    wanted = _parse_baseline(text, groups)
    candidates = [
        i for i, group in enumerate(groups) if all(_is_equal(group.settings[key], wanted[key]) for key in wanted)
    ]
    is_for_all = baseline is not None and len(candidates) == 1
    pairs = {}
    for i, group in enumerate(groups):
        if i in candidates:
            continue
        partners = list(candidates) if is_for_all else _partners(groups, candidates, i, wanted)
        if len(partners) > 1 and baseline is not None:
            labels = "; ".join(groups[j].label for j in partners)
            problem = f"matches several groups for {group.label}: {labels}"
            raise ConfigErrors(
                [ConfigError("--baseline", text, problem, "add a KEY=VALUE that matches only one of them")]
            )
        if len(partners) == 1:
            pairs[i] = partners[0]
    return text, pairs


def _parse_baseline(text: str, groups: Sequence[Group]) -> dict[str, str]:
    """Return the baseline's pairs.

    Raises:
        ConfigErrors: if no group has one of the pairs.
    """
    wanted = {key: value for key, _, value in (part.partition("=") for part in text.replace(",", " ").split())}
    choices = sorted({f"{key}={value}" for group in groups for key, value in group.settings.items()})
    for key, value in wanted.items() or [("", "")]:
        if not any(_is_equal(group.settings.get(key), value) for group in groups):
            problem = f"must be one of {', '.join(choices)}"
            raise ConfigErrors([ConfigError("--baseline", text, problem, did_you_mean(f"{key}={value}", choices))])
    return wanted


def _partners(groups: Sequence[Group], candidates: Sequence[int], i: int, wanted: Mapping[str, str]) -> list[int]:
    """Return the baseline groups with the same other settings as group `i`.

    Settings below the baseline's keys can differ, such as the mu of FedProx. The groups with the fewest such differences
    are returned.
    """
    below = tuple(f"{key}." for key in wanted)

    def differing_keys(j: int) -> list[str]:
        settings = groups[i].settings.items()
        return [key for key, value in settings if key not in wanted and groups[j].settings[key] != value]

    keys = {j: differing_keys(j) for j in candidates}
    counts = {j: len(keys[j]) for j in candidates if all(key.startswith(below) for key in keys[j])}
    return [j for j, count in counts.items() if count == min(counts.values())]


def _hashable(value: Any) -> Hashable:
    """Return a value for comparison: 1 equals 1.0, but not true."""
    is_plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return value if is_plain else (json.dumps(value, default=str),)


def format_value(value: Any) -> str:
    """Return a value of a configuration as command-line text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _is_equal(a: str | None, b: str) -> bool:
    return a is not None and (a == b or _sort_key(a) == _sort_key(b))


def _sort_key(text: str) -> tuple[int, float, str]:
    """Sort numbers by size, before words."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
