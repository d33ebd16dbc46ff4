"""The report as one mapping of JSON values: everything that is shown is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.reports.grouping import Group, choose_baselines, group_runs
from fedlit.reports.metrics import COSTS, SPREAD, Criterion, make_criterion, mean_curve, measure_run, skip_reason
from fedlit.reports.render.terminal import MOST_TOLD
from fedlit.reports.runs import FinishedRun, SkippedRun, find_runs, read_run
from fedlit.reports.statistics import LEVEL, Estimate, student_interval, unpaired

SCALARS = ("best", "last", "area", "rounds", "bytes", "wall_s", "simulated_s", "seconds")
COMPARED = ("best", "last", "area")

Measured = Mapping[int, Mapping[str, Any]]


def make_result(
    paths: Sequence[Path | str],
    baseline: str | None = None,
    target: float | None = None,
    metric: str | None = None,
    mode: str | None = None,
) -> dict[str, Any]:
    """The report of the runs at and below the paths.

    Returns:
        `metric`, `mode`, `level`, `target`, `baseline`; `runs`, a mapping for each; `groups`, with their estimates; `paired`,
        differences from the baseline; `left_out`, with reasons; `curves`.

    Raises:
        Mistakes: if there is nothing to report on, or the target, metric or baseline cannot be had.
    """
    groups, left, by = _grouped(paths, metric, mode, target)
    typed, compared = choose_baselines(groups, baseline)
    measured = [{seed: measure_run(run, by) for seed, run in one.runs.items()} for one in groups]
    return {
        "metric": by.metric,
        "mode": by.mode,
        "level": LEVEL,
        "target": by.target,
        "baseline": typed,
        "baseline_was_typed": baseline is not None,
        "groups": [_group(one, found, by) for one, found in zip(groups, measured, strict=True)],
        "paired": [_paired(groups[i], groups[j], measured[i], measured[j]) for i, j in compared.items()],
        "not_compared": _not_compared(groups, compared),
        "left_out": [{"folder": str(one.folder), "what": one.what, "why": one.why} for one in left],
        "runs": [
            {
                "folder": str(one.runs[seed].folder),
                "group": one.label,
                "settings": dict(one.settings),
                "seed": seed,
                **run,
            }
            for one, found in zip(groups, measured, strict=True)
            for seed, run in found.items()
        ],
        "curves": [{over: _band(one, by.metric, over) for over in ("rounds", "bytes")} for one in groups],
    }


def _grouped(
    paths: Sequence[Path | str], metric: str | None, mode: str | None, target: float | None
) -> tuple[list[Group], list[SkippedRun], Criterion]:
    here = [read_run(folder) for folder in find_runs(paths)]
    runs, left = (
        [one for one in here if isinstance(one, FinishedRun)],
        [one for one in here if isinstance(one, SkippedRun)],
    )
    if not runs:
        raise ConfigErrors(_nothing(left))
    by = make_criterion(runs, metric, mode, target)
    other = {run.folder: why for run in runs if (why := skip_reason(run, by, metric is not None))}
    left += [
        SkippedRun(run.folder, "other metric", other[run.folder], run.config) for run in runs if run.folder in other
    ]
    if len(other) == len(runs):
        raise ConfigErrors(_nothing(left))
    groups, again = group_runs([run for run in runs if run.folder not in other], left)
    return groups, [*left, *again], by


def _nothing(left: Sequence[SkippedRun]) -> list[ConfigError]:
    """What there was instead of finished runs."""
    told = [ConfigError("PATH", one.folder, f"is left out: {one.what}: {one.why}") for one in left[:MOST_TOLD]]
    more = f" and {len(left) - MOST_TOLD} more" if len(left) > MOST_TOLD else ""
    remedy = "a report needs one finished run, with a summary.json"
    last = told[-1]
    return [*told[:-1], ConfigError(last.key, f"{last.value}{more}", last.problem, remedy)]


def _group(one: Group, measured: Measured, by: Criterion) -> dict[str, Any]:
    found = {name: _estimate(measured, lambda run, name=name: run[name]) for name in SCALARS}
    spread = {part: _estimate(measured, lambda run, part=part: (run["spread"] or {}).get(part)) for part in SPREAD}
    outcomes: Counter[str] = Counter()
    for run in measured.values():
        outcomes.update(run["failures"])
    without = {name: [seed for seed, run in measured.items() if run[name] is None] for name in ("best", "last")}
    target = None
    if by.target is not None:
        reached = [seed for seed, run in measured.items() if run["target"] is not None]
        costs = {name: _estimate(measured, lambda run, name=name: (run["target"] or {}).get(name)) for name in COSTS}
        target = {"reached": reached, "of": len(measured), **costs}
    return {
        "group": one.label,
        "settings": dict(one.settings),
        "n": len(measured),
        "seeds": [*measured],
        **found,
        "no_number": without,
        "spread": spread if spread["std"] else None,
        "failures": dict(sorted(outcomes.items())),
        "lost_rounds": sum(run["lost_rounds"] for run in measured.values()),
        "failed_jobs": [str(folder) for folder in one.failed],
        "target": target,
    }


def _estimate(measured: Measured, of: Any) -> dict[str, Any] | None:
    """The mean over the seeds that have a number."""
    values = {seed: value for seed, run in measured.items() if (value := of(run)) is not None}
    found = Estimate.of(values)
    return None if found is None else found.plain()


def _paired(one: Group, base: Group, measured: Measured, to: Measured) -> dict[str, Any]:
    """Differences of a group from its baseline, seed by seed."""
    found: dict[str, Any] = {}
    for name in COMPARED:
        a, b = ({seed: run[name] for seed, run in part.items() if run[name] is not None} for part in (measured, to))
        pairs = Estimate.paired(a, b)
        found[name] = None if pairs is None else pairs.plain() | {"unpaired": unpaired(a, b)}
    both = sorted(set(measured) & set(to))
    return {
        "group": one.label,
        "baseline": base.label,
        "n": len(both),
        "seeds": both,
        **found,
        "left_out_seeds": {"group": sorted(set(measured) - set(to)), "baseline": sorted(set(to) - set(measured))},
        "digests_that_differ": _unlike(one, base, both),
    }


def _unlike(one: Group, base: Group, seeds: Sequence[int]) -> list[str]:
    """What a seed did not make the same in both, of what their summaries have digests of."""
    found = set()
    for seed in seeds:
        a, b = (part.runs[seed].summary.get("digest", {}) for part in (one, base))
        found |= {name for name in set(a) & set(b) if a[name] != b[name]}
    return sorted(found)


def _not_compared(groups: Sequence[Group], compared: Mapping[int, int]) -> list[str]:
    """Groups that are no baseline and have none."""
    return [one.label for i, one in enumerate(groups) if compared and i not in compared and i not in compared.values()]


def _band(one: Group, metric: str, over: str) -> dict[str, Any]:
    """The mean over the seeds at each point, and its interval's ends; none for one seed."""
    found = mean_curve(one.runs, metric, over)
    x = found.pop("x")
    if not x:
        return {"x": [], "mean": [], "low": None, "high": None}
    mean, half = student_interval(np.array([*found.values()]).T)
    ends = (None, None) if len(found) < 2 else ((mean - half).tolist(), (mean + half).tolist())
    return {"x": x, "mean": mean.tolist(), "low": ends[0], "high": ends[1]}
