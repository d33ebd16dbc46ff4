"""Differences of the groups' configurations from their baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedlit.reports.labels import ABSENT, format_value, hashable
from fedlit.reports.result import Report
from fedlit.runs.keys import row_of


def config_differences(report: Report) -> Iterator[tuple[int, int, list[list[str]]]]:
    """Yield the keys in which each group differs from its baseline.

    A group without a baseline is compared with the first group.

    Returns:
        The group's index, the baseline's index, and rows of key, the baseline's value and the group's value.
    """
    configs = [next(iter(group.runs.values())).flat_config for group in report.groups]
    for i in range(len(configs)):
        j = report.baselines.get(i, 0)
        if i not in report.baselines and i in (0, *report.baselines.values()):
            continue  # a baseline itself
        yield i, j, _differing_rows(configs[j], configs[i])


def _differing_rows(baseline: Mapping[str, Any], config: Mapping[str, Any]) -> list[list[str]]:
    keys = [key for key in sorted({*baseline, *config}) if row_of(key).separates_groups]
    pairs = {key: [part.get(key, ABSENT) for part in (baseline, config)] for key in keys}
    return [[key, *map(format_value, pair)] for key, pair in pairs.items() if hashable(pair[0]) != hashable(pair[1])]
