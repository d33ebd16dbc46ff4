"""Groups of runs, and their baselines.

The runs of a group differ in the seed alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.reports.labels import RunSettings, differing_settings, hashable, make_labels
from fedlit.reports.runs import SkippedRun
from fedlit.runs.folder import FinishedRun
from fedlit.runs.keys import row_of


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Args:
        settings: keys whose values differ between groups, with this group's values as command-line text.
        runs: runs by seed.
        label: the settings in one line that no other group has; of many settings only those that are unusual.
        failed_jobs: folders of jobs with the same configuration that failed.
        is_trial: True if a sweeper chose the settings to find the best ones.
    """

    settings: Mapping[str, str]
    runs: Mapping[int, FinishedRun]
    label: str
    failed_jobs: Sequence[Path] = ()
    is_trial: bool = False


def config_signature(config: Mapping[str, Any]) -> Hashable:
    """Return the values of a configuration that separate groups."""
    return frozenset((key, hashable(value)) for key, value in config.items() if row_of(key).separates_groups)


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
    first_runs = [next(iter(seeds.values())) for seeds in by_signature.values()]
    run_settings = [RunSettings.read(run) for run in first_runs]
    order, settings = _sorted_by_settings(differing_settings(first_runs, run_settings))
    signatures = [*by_signature]
    groups = [
        Group(
            settings=group_settings,
            runs=dict(sorted(by_signature[signatures[i]].items())),
            label=label,
            failed_jobs=failed[signatures[i]],
            is_trial=run_settings[i].is_trial,
        )
        for i, group_settings, label in zip(order, settings, make_labels(settings), strict=True)
    ]
    return groups, duplicates


def _sorted_by_settings(settings: Sequence[dict[str, str]]) -> tuple[list[int], list[dict[str, str]]]:
    """Return the order of the settings, and the settings in this order."""
    order = sorted(range(len(settings)), key=lambda i: [_sort_key(value) for value in settings[i].values()])
    return order, [settings[i] for i in order]


def choose_baselines(groups: Sequence[Group], baseline: str | None) -> tuple[str | None, dict[int, int]]:
    """Choose the group with which each group is compared.

    Each group is compared with the baseline group that has the same other settings. If `baseline` names exactly one group,
    all other groups are compared with that group.

    Args:
        groups: groups of the report.
        baseline: `KEY=VALUE` pairs; None for the first value of the first setting, and for none among a search's trials.

    Returns:
        The baseline as text, None for none; and a mapping from a group's index to its baseline's index.

    Raises:
        ConfigErrors: if the baseline matches no group, or several groups for one group.
    """
    if len(groups) < 2:
        if baseline is None:
            return None, {}
        problem = "needs a second group for the comparison, and there is only one group"
        raise ConfigErrors([ConfigError("--baseline", baseline, problem, "leave out --baseline")])
    if baseline is None and any(group.is_trial for group in groups):  # the first trial of a search is nothing special
        return None, {}
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
    choices = sorted({f"{key}={value}" for group in groups for key, value in group.settings.items()})
    parts = [text] if text in choices else text.replace(",", " ").split()  # one value may have spaces and commas
    wanted = {key: value for key, _, value in (part.partition("=") for part in parts)}
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


def _is_equal(a: str | None, b: str) -> bool:
    return a is not None and (a == b or _sort_key(a) == _sort_key(b))


def _sort_key(text: str) -> tuple[int, float, str]:
    """Sort numbers by size, before words."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
