"""What one run came to: its metric at the best round and at the last, what it took, how its clients fared, who failed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlit.core.errors import ConfigError, ConfigErrors, did_you_mean
from fedlit.reports.runs import FinishedRun, to_float
from fedlit.reports.statistics import area_under_curve

SPREAD = ("std", "lowest_tenth", "highest_tenth", "gini")
COSTS = ("rounds", "bytes", "wall_s", "simulated_s")


@dataclass(frozen=True)
class Criterion:
    """By what runs are compared.

    Args:
        metric: its name in the records.
        mode: `max` or `min`: which value is the better one; None where nobody said.
        target: a value of it, or None.
    """

    metric: str
    mode: str | None
    target: float | None = None

    def reaches(self, value: float) -> bool:
        """Whether the value has come to the target."""
        assert self.target is not None
        return value >= self.target if self.mode == "max" else value <= self.target


def counterpart(monitor: str) -> tuple[str, str]:
    """The test set's metric of a validation metric, and that of the clients' own test samples."""
    test = f"test{monitor[3:]}" if monitor.startswith(("val_", "val/")) else f"test/{monitor}"
    return test, f"own/{_bare(test)}"


def _bare(name: str) -> str:
    return name.removeprefix("own/").removeprefix("test").lstrip("/_")


def make_criterion(
    runs: Sequence[FinishedRun], metric: str | None, mode: str | None, target: float | None
) -> Criterion:
    """By what the runs are compared: the metric that is asked for; otherwise the monitored metric's counterpart on the test
    set or, where no run has that, on the clients' own test samples: the one that the most runs have.

    Raises:
        Mistakes: if no run has the metric, or the target needs a mode that cannot be had.
    """
    if target is not None and not math.isfinite(target):
        raise ConfigErrors([ConfigError("--target", target, "must be a number")])
    names = {name for run in runs for name in run.summary["last"]["metrics"]}
    asked = Counter[tuple[str, str]]()
    for run in runs:
        found = [name for name in counterpart(run.config["monitor.name"]) if name in names]
        asked.update((name, str(run.config.get("monitor.mode"))) for name in found[:1])
    if metric is None and asked:
        (metric, told), _ = asked.most_common(1)[0]
        return Criterion(metric, mode or told, target)
    if metric is None or metric not in names:
        measured = sorted(name for name in names if name.startswith(("test", "own/", "val")))
        why = f"is in no run's records; {', '.join(measured) or 'no metric of an evaluation'} are"
        raise ConfigErrors(
            [
                ConfigError(
                    "--metric",
                    metric or "the monitored metric's on test samples",
                    why,
                    did_you_mean(metric or "", measured),
                )
            ]
        )
    modes = {told for (name, told) in asked if name == metric}
    mode = mode or (modes.pop() if len(modes) == 1 else None)
    if target is not None and mode is None:
        why = f"needs to know which values of {metric} are the better ones"
        raise ConfigErrors([ConfigError("--target", target, why, "add --mode max or --mode min")])
    return Criterion(metric, mode, target)


def skip_reason(run: FinishedRun, by: Criterion, asked: bool) -> str | None:
    """Why a run cannot be compared by that metric with the others, or None.

    Args:
        run: one of those that were read.
        by: what all are compared by.
        asked: whether the metric was asked for: then it may be another than the monitored one's counterpart.
    """
    if by.metric not in run.summary["last"]["metrics"]:
        return f"has no {by.metric} in its last round"
    monitor, mode = run.config["monitor.name"], run.config.get("monitor.mode")
    if not asked and by.metric not in counterpart(monitor):
        return f"is monitored by {monitor}; --metric {by.metric} takes it in"
    if by.metric in counterpart(monitor) and by.mode is not None and mode != by.mode:
        return f"has monitor.mode={mode}, and the report is of {by.mode}"
    return None


def measure_run(run: FinishedRun, by: Criterion) -> dict[str, Any]:
    """The run in numbers; None where there is none.

    Returns:
        `best_round`, `best`, `last_round`, `last`, `area`, `rounds`, `bytes`, `wall_s`, `simulated_s`, `seconds`, `spread`
        (at the best round), `failures` (by outcome), `lost_rounds` and, if there is a target, `target`: `rounds`, `bytes`,
        `wall_s`, `simulated_s` until it was first reached, or None.
    """
    best, last = run.summary["best"], run.summary["last"]
    curve = np.array(run.values(by.metric))
    there = np.flatnonzero(np.isfinite(curve))
    spent = cumulative_costs(run)
    spread = {part: finite_or_none(best["metrics"].get(f"own/{_bare(by.metric)}_{part}")) for part in SPREAD}
    outcomes = Counter(str(failure["outcome"]) for record in run.rounds for failure in record["failures"])
    found = {
        "best_round": best["round"],
        "best": finite_or_none(best["metrics"].get(by.metric)),
        "last_round": last["round"],
        "last": finite_or_none(last["metrics"].get(by.metric)),
        "area": area_under_curve(there + 1.0, curve[there]) if len(there) else None,
        **{name: finite_or_none(values[-1]) for name, values in spent.items()},
        "seconds": finite_or_none(run.summary.get("seconds")),
        "spread": spread if spread["std"] is not None else None,
        "failures": dict(sorted(outcomes.items())),
        "lost_rounds": sum(record.get("lost") is not None for record in run.rounds),
    }
    if by.target is None:
        return found
    first = next((i for i in there if by.reaches(curve[i])), None)
    return found | {"target": None if first is None else {name: finite_or_none(v[first]) for name, v in spent.items()}}


def cumulative_costs(run: FinishedRun) -> dict[str, np.ndarray]:
    """What had been spent after each round: `rounds`, `bytes` in both directions, `wall_s` in rounds, `simulated_s`."""
    sent = np.array(run.values("comm/up_bytes")) + np.array(run.values("comm/down_bytes"))
    return {
        "rounds": np.arange(1.0, len(run.rounds) + 1),
        "bytes": np.cumsum(sent),
        "wall_s": np.cumsum(run.values("time/round_s")),
        "simulated_s": np.cumsum(run.values("time/simulated_s")),
    }


def mean_curve(runs: Mapping[int, FinishedRun], metric: str, over: str) -> dict[str, list[float]]:
    """The metric of each seed over `rounds` or `bytes`, where all of them have a value: `x`, and `seed N` for each. Where
    runs have spent different amounts, lines between their values."""
    lines = {}
    for seed, run in runs.items():
        y, x = np.array(run.values(metric)), cumulative_costs(run)[over]
        there = np.isfinite(y) & np.isfinite(x)
        if not there.any():
            return {"x": []}
        lines[seed] = x[there], y[there]
    low, high = max(x[0] for x, _ in lines.values()), min(x[-1] for x, _ in lines.values())
    grid = np.unique(np.concatenate([x for x, _ in lines.values()]))
    if over == "rounds":  # evaluated in none but these
        grid = grid[[all(np.isin(point, x) for x, _ in lines.values()) for point in grid]]
    grid = grid[(low <= grid) & (grid <= high)]
    return {"x": grid.tolist(), **{f"seed {seed}": np.interp(grid, x, y).tolist() for seed, (x, y) in lines.items()}}


def finite_or_none(value: Any) -> float | None:
    """The value, or None where it is no finite number."""
    return None if math.isnan(to_float(value)) else to_float(value)
