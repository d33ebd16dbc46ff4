"""Settings in which groups of runs differ, and their labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlit.runs.folder import READ_ERRORS, FinishedRun, read_command
from fedlit.runs.keys import row_of
from fedlit.runs.layout import HYDRA_SETTINGS
from fedlit.runs.parsing import read_yaml

ABSENT = "-"
"""The value of a key that a configuration does not have."""
MAX_SETTINGS = 4
"""Settings that a label has in full. Of more, it has the unusual values."""
MAX_LABEL = 100
"""Largest number of characters in a label."""


@dataclass(frozen=True)
class RunSettings:
    """Hydra's settings of a run, as far as a report needs them.

    Args:
        choices: choices in the configuration groups, by group.
        is_trial: True if a sweeper chose the run's values to find the best ones.
    """

    choices: Mapping[str, str]
    is_trial: bool = False

    @classmethod
    def read(cls, run: FinishedRun) -> RunSettings:
        """Read the settings that Hydra recorded, or else the overrides."""
        try:
            hydra = read_yaml(run.folder / HYDRA_SETTINGS)["hydra"]
            choices = {key: str(value) for key, value in hydra["runtime"]["choices"].items() if value is not None}
            return cls(choices, (hydra.get("sweeper") or {}).get("direction") is not None)
        except READ_ERRORS:  # choices only name a group: without them its classes do
            pass
        try:
            parts = [text.lstrip("+").partition("=") for text in read_command(run.folder)["overrides"]]
        except READ_ERRORS:
            return cls({})
        tops = {key.partition(".")[0] for key in run.flat_config if "." in key}
        return cls({key: value for key, _, value in parts if key in tops})


def make_labels(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a label of each group that no other group has.

    Args:
        settings: settings of each group, all with the same keys.
    """
    values = {key: _short_values([group[key] for group in settings]) for key in (settings[0] if settings else ())}
    keys = [_notable_keys(group, settings) if len(group) > MAX_SETTINGS else [*group] for group in settings]
    parts = [[f"{key}={values[key][group[key]]}" for key in keys[i]] for i, group in enumerate(settings)]
    labels, counts = [_shortened(each) for each in parts], Counter[str]()
    for i, label in enumerate(labels):
        counts[label] += 1
        if counts[label] > 1:
            labels[i] = f"{label} ({counts[label]})"
    return labels


def _short_values(values: Sequence[str]) -> dict[str, str]:
    """Return a text for each value: long numbers rounded, if still different."""
    short = {value: _rounded(value) for value in values}
    return short if len({*short.values()}) == len(short) else {value: value for value in values}


def _rounded(value: str) -> str:
    try:
        text = f"{float(value):.4g}"
    except ValueError:
        return value
    return text if len(text) + 4 <= len(value) else value


def _notable_keys(group: Mapping[str, str], settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys with an unusual value: choices first.

    A value is usual if more than half of the groups have it, or of those with the same choice in its group. So two groups have
    the same notable settings only if they have the same settings.
    """
    notable = []
    for key, value in sorted(group.items(), key=lambda item: "." in item[0]):
        top = key.partition(".")[0]
        peers = [other for other in settings if key == top or other.get(top) == group.get(top)]
        if 2 * sum(other[key] == value for other in peers) <= len(peers):
            notable.append(key)
    return notable or [next(iter(group))]


def _shortened(parts: Sequence[str]) -> str:
    """Join the parts, and count those that exceed MAX_LABEL characters."""
    text = " ".join(parts)
    for count in range(len(parts) - 1, 0, -1):
        if len(text) <= MAX_LABEL:
            return text
        text = f"{' '.join(parts[:count])} +{len(parts) - count} more"
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 3]}..."


def differing_settings(runs: Sequence[FinishedRun], settings: Sequence[RunSettings]) -> list[dict[str, str]]:
    """Return the settings that differ between groups.

    Args:
        runs: one run of each group.
        settings: Hydra's settings of these runs.

    Returns:
        For each group its values as command-line text, with the same keys for all groups.
    """
    keys = sorted({key for run in runs for key in run.flat_config if row_of(key).separates_groups})
    differing = [key for key in keys if len({hashable(run.flat_config.get(key, ABSENT)) for run in runs}) > 1]
    choices = [each.choices for each in settings]
    all_settings: list[dict[str, str]] = [{} for _ in runs]
    for top in dict.fromkeys(key.partition(".")[0] for key in differing):
        below = [key for key in differing if key.partition(".")[0] == top]
        names = _choice_names(top, runs, choices)
        if names is not None:
            for group, name in zip(all_settings, names, strict=True):
                group[top] = name
            below = [key for key in below if not _follows_choice(key, runs, names)]
        for group, run in zip(all_settings, runs, strict=True):
            group |= {key: format_value(run.flat_config[key]) for key in below if key in run.flat_config}
    keys = list(dict.fromkeys(key for group in all_settings for key in group))
    if not keys:  # one group is named by its choices, though no other group differs from it
        tops = ("algorithm", "data", "model")
        return [{top: name for top in tops if (name := choices[0].get(top) or _class_name(top, runs[0]))}]
    return [{key: group.get(key, ABSENT) for key in keys} for group in all_settings]


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
    pairs = {(name, hashable(run.flat_config.get(key, ABSENT))) for run, name in zip(runs, names, strict=True)}
    return len(pairs) == len(set(names))


def hashable(value: Any) -> Hashable:
    """Return a value for comparison: 1 equals 1.0, but not true.

    NaN equals NaN.
    """
    is_plain = isinstance(value, int | float | str) and not isinstance(value, bool) and value == value
    return value if is_plain else (json.dumps(value, default=str),)


def format_value(value: Any) -> str:
    """Return a value of a configuration as command-line text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
