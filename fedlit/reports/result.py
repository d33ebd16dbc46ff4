"""The report as JSON values, for tables, text and figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.reports.grouping import Group, choose_baselines, group_runs
from fedlit.reports.measures.columns import COSTS, MESSAGES
from fedlit.reports.measures.metrics import SPREAD, Criterion, make_criterion, mean_curve, measure_run, skip_reason
from fedlit.reports.measures.statistics import LEVEL, Estimate, student_interval, unpaired
from fedlit.reports.measures.trade_off import make_trade_off, parse_plots
from fedlit.reports.runs import MAX_LISTED_RUNS, SkippedRun, find_runs, read_run
from fedlit.runs.folder import FinishedRun
from fedlit.runs.layout import SUMMARY

SCALARS = ("best", "last", "area", "rounds", "bytes", "wall_s", "simulated_s", "seconds", *MESSAGES)
COMPARED = ("best", "last", "area")

Measures = Mapping[int, Mapping[str, Any]]
"""The measurements of a group's runs, by seed."""


@dataclass(frozen=True)
class Report:
    """A report and the runs that it is made from.

    Args:
        values: the report as JSON values, see `make_result`.
        groups: groups of runs, in the order of the report's groups.
        skipped: runs that are not in the report.
        baselines: index of a group's baseline, by the index of the group.
    """

    values: Mapping[str, Any]
    groups: Sequence[Group]
    skipped: Sequence[SkippedRun]
    baselines: Mapping[int, int]


def make_result(
    paths: Sequence[Path | str],
    baseline: str | None = None,
    target: float | None = None,
    metric: str | None = None,
    mode: str | None = None,
    plots: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report of the runs at and below the paths.

    Args:
        paths: folders of runs or sweeps, or patterns of them.
        baseline: `KEY=VALUE` pairs; None for the first value of the first setting that differs.
        target: value of the metric, or None.
        metric: name of the metric; None for the monitored metric on the test set.
        mode: `max`, `min`, or None for the mode of the monitored metric.
        plots: trade-offs of two columns, as `X:Y`.

    Returns:
        `metric`, `mode`, `level`, `target`, `baseline`; `runs`, a mapping for each; `groups`, with their estimates; `paired`,
        differences from the baseline; `search`, the ranking of a search's trials, or None; `left_out`, skipped runs with
        reasons; `curves`; `trade_offs`, see `make_trade_off`.

    Raises:
        ConfigErrors: if there is no finished run, or the target, metric, baseline or a trade-off is invalid.
    """
    return dict(make_report(paths, baseline, target, metric, mode, plots).values)


def make_report(
    paths: Sequence[Path | str],
    baseline: str | None = None,
    target: float | None = None,
    metric: str | None = None,
    mode: str | None = None,
    plots: Sequence[str] = (),
) -> Report:
    """Return the report with its runs. For arguments and errors see `make_result`."""
    groups, skipped, criterion = _load_groups(paths, metric, mode, target)
    seeds = [group.runs for group in groups]
    pairs_of_columns = parse_plots(plots, seeds)
    baseline_text, pairs = choose_baselines(groups, baseline)
    measures = [{seed: measure_run(run, criterion) for seed, run in group.runs.items()} for group in groups]
    values = {
        "metric": criterion.metric,
        "mode": criterion.mode,
        "level": LEVEL,
        "target": criterion.target,
        "baseline": baseline_text,
        "baseline_was_typed": baseline is not None,
        "groups": [_group_summary(*one, criterion) for one in zip(groups, measures, strict=True)],
        "paired": [_paired_differences(groups[i], groups[j], measures[i], measures[j]) for i, j in pairs.items()],
        "not_compared": _groups_without_baseline(groups, pairs),
        "search": _search(groups, measures),
        "left_out": [{"folder": str(run.folder), "what": run.kind, "why": run.reason} for run in skipped],
        "runs": [row for one in zip(groups, measures, strict=True) for row in _run_rows(*one)],
        "curves": [{over: _band(group, criterion.metric, over) for over in ("rounds", "bytes")} for group in groups],
        "trade_offs": [make_trade_off(x, y, seeds, criterion) for x, y in pairs_of_columns],
    }
    return Report(values, groups, skipped, pairs)


def _load_groups(
    paths: Sequence[Path | str], metric: str | None, mode: str | None, target: float | None
) -> tuple[list[Group], list[SkippedRun], Criterion]:
    """Return the groups, the skipped runs, and the metric of the report."""
    results = [read_run(folder) for folder in find_runs(paths)]
    runs = [run for run in results if isinstance(run, FinishedRun)]
    skipped = [run for run in results if isinstance(run, SkippedRun)]
    if not runs:
        raise ConfigErrors(_no_run_errors(skipped))
    criterion = make_criterion(runs, metric, mode, target)
    comparable = []
    for run in runs:
        reason = skip_reason(run, criterion, metric is not None)
        if reason is None:
            comparable.append(run)
        else:
            skipped.append(SkippedRun(run.folder, "other metric", reason, run.flat_config))
    if not comparable:
        raise ConfigErrors(_no_run_errors(skipped))
    groups, duplicates = group_runs(comparable, skipped)
    return groups, [*skipped, *duplicates], criterion


def _no_run_errors(skipped: Sequence[SkippedRun]) -> list[ConfigError]:
    """One error for each skipped run, up to MAX_LISTED_RUNS."""
    errors = [
        ConfigError("PATH", run.folder, f"is skipped: {run.kind}: {run.reason}") for run in skipped[:MAX_LISTED_RUNS]
    ]
    more = f" and {len(skipped) - MAX_LISTED_RUNS} more" if len(skipped) > MAX_LISTED_RUNS else ""
    hint = f"a report needs at least one finished run, with a {SUMMARY}"
    last = errors[-1]
    return [*errors[:-1], ConfigError(last.key, f"{last.value}{more}", last.problem, hint)]


def _search(groups: Sequence[Group], measures: Sequence[Measures]) -> dict[str, Any] | None:
    """Return a search's trials, best first; None for other groups.

    Returns:
        `objective`, the name of the metric that the search optimised, `mode`, and `ranking`: for each trial its `index` in the
        groups and the estimate of its `objective`.
    """
    configs = [run.flat_config for group in groups for run in group.runs.values()]
    objectives = {(config["monitor.name"], config.get("monitor.mode")) for config in configs}
    if not all(group.is_trial for group in groups) or len(objectives) != 1:
        return None
    ((objective, mode),) = objectives
    trials = [
        {"index": i, "objective": _estimate(runs, lambda run: run["objective"])} for i, runs in enumerate(measures)
    ]
    sign = -1.0 if mode == "max" else 1.0
    trials.sort(key=lambda trial: sign * trial["objective"]["mean"] if trial["objective"] else float("inf"))
    return {"objective": objective, "mode": mode, "ranking": trials}


def _run_rows(group: Group, measures: Measures) -> list[dict[str, Any]]:
    return [
        {
            "folder": str(group.runs[seed].folder),
            "group": group.label,
            "settings": dict(group.settings),
            "seed": seed,
            **run,
        }
        for seed, run in measures.items()
    ]


def _group_summary(group: Group, measures: Measures, criterion: Criterion) -> dict[str, Any]:
    spread = {part: _estimate(measures, lambda run, part=part: (run["spread"] or {}).get(part)) for part in SPREAD}
    outcomes: Counter[str] = Counter()
    for run in measures.values():
        outcomes.update(run["failures"])
    target = None
    if criterion.target is not None:
        reached = [seed for seed, run in measures.items() if run["target"] is not None]
        costs = {name: _estimate(measures, lambda run, name=name: (run["target"] or {}).get(name)) for name in COSTS}
        target = {"reached": reached, "of": len(measures), **costs}
    return {
        "group": group.label,
        "settings": dict(group.settings),
        "n": len(measures),
        "seeds": [*measures],
        **{name: _estimate(measures, lambda run, name=name: run[name]) for name in SCALARS},
        "no_number": {name: [seed for seed, run in measures.items() if run[name] is None] for name in ("best", "last")},
        "spread": spread if spread["std"] else None,
        "failures": dict(sorted(outcomes.items())),
        "lost_rounds": sum(run["lost_rounds"] for run in measures.values()),
        "failed_jobs": [str(folder) for folder in group.failed_jobs],
        "target": target,
    }


def _estimate(measures: Measures, value_of: Callable[[Mapping[str, Any]], float | None]) -> dict[str, Any] | None:
    """Return the mean over the seeds that have a value, or None."""
    values = {seed: value for seed, run in measures.items() if (value := value_of(run)) is not None}
    estimate = Estimate.of(values)
    return None if estimate is None else estimate.to_dict()


def _paired_differences(group: Group, baseline: Group, measures: Measures, base: Measures) -> dict[str, Any]:
    """Differences of a group from its baseline, seed by seed."""
    differences: dict[str, Any] = {}
    for name in COMPARED:
        a, b = ({seed: run[name] for seed, run in part.items() if run[name] is not None} for part in (measures, base))
        pairs = Estimate.paired(a, b)
        differences[name] = None if pairs is None else pairs.to_dict() | {"unpaired": unpaired(a, b)}
    seeds = sorted(set(measures) & set(base))
    return {
        "group": group.label,
        "baseline": baseline.label,
        "n": len(seeds),
        "seeds": seeds,
        **differences,
        "left_out_seeds": {"group": sorted(set(measures) - set(base)), "baseline": sorted(set(base) - set(measures))},
        "digests_that_differ": _differing_digests(group, baseline, seeds),
    }


def _differing_digests(group: Group, baseline: Group, seeds: Sequence[int]) -> list[str]:
    """Names of the digests that differ between runs with the same seed."""
    names = set()
    for seed in seeds:
        a, b = (part.runs[seed].summary.get("digest", {}) for part in (group, baseline))
        names |= {name for name in set(a) & set(b) if a[name] != b[name]}
    return sorted(names)


def _groups_without_baseline(groups: Sequence[Group], pairs: Mapping[int, int]) -> list[str]:
    """Labels of the groups that have no baseline and are not one."""
    return [group.label for i, group in enumerate(groups) if pairs and i not in pairs and i not in pairs.values()]


def _band(group: Group, metric: str, over: str) -> dict[str, Any]:
    """Return each seed's curve, and their mean with its interval."""
    curves = mean_curve(group.runs, metric, over)
    x = curves.pop("x")
    if not x:
        return {"x": [], "mean": [], "low": None, "high": None, "seeds": {}}
    mean, half = student_interval(np.array([*curves.values()]).T)
    low, high = (None, None) if len(curves) < 2 else ((mean - half).tolist(), (mean + half).tolist())
    return {"x": x, "mean": mean.tolist(), "low": low, "high": high, "seeds": curves}
