"""The summary of a run.

The summary has the best round, the last round, the totals, and the metrics that people read first.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fedlit.runs.metric_names import is_evaluation, split_of
from fedlit.runs.record import RoundRecord
from fedlit.server.monitor import Monitor

PACKAGES = ("fedlit", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy")

SPREAD_SUFFIXES = ("_std", "_lowest_tenth", "_highest_tenth", "_gini")
"""Suffixes of the figures of spread over clients that stand beside a mean: `own/loss_std` beside `own/loss`."""


class RunTracker:
    """The best round, the last round and the totals of a run."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.best: RoundRecord | None = None
        self.last: RoundRecord | None = None
        self._lost = self._up = self._down = 0

    def add(self, record: RoundRecord) -> None:
        """Add the next round."""
        self.last = record
        self._lost += record.lost is not None
        self._up += int(record.metrics["comm/up_bytes"])
        self._down += int(record.metrics["comm/down_bytes"])
        if self.monitor.is_better(record, self.best):
            self.best = record

    def summary(self, seconds: float, seed: int) -> dict[str, Any]:
        """Return the content of summary.json.

        `best` is the round chosen on the validation metric, or the last round if there is none.
        """
        assert self.last is not None
        best, model = self.best or self.last, self.last.model
        assert model is not None  # the last round keeps its model
        return {
            "rounds": self.last.number,
            "lost_rounds": self._lost,
            "seed": seed,
            "monitor": self.monitor.name,
            "best": {"round": best.number, "metrics": dict(best.metrics), "state_sha256": best.sha256},
            "last": {"round": self.last.number, "cohort": list(self.last.cohort), "metrics": dict(self.last.metrics)},
            "state_sha256": self.last.sha256,
            "parameters": sum(tensor.numel() for tensor in model.parameters.values()),
            "buffers": sum(tensor.numel() for tensor in model.buffers.values()),
            "up_bytes": self._up,
            "down_bytes": self._down,
            "seconds": seconds,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "platform": platform.platform(),
        }


def evaluation_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of evaluations.

    Of the metrics of clients' own test sets only the means are returned.
    """
    return {name: value for name, value in metrics.items() if is_evaluation(name) and not _is_spread(name, metrics)}


def _is_spread(name: str, metrics: Mapping[str, float]) -> bool:
    """True if the metric is a figure of spread beside its mean."""
    means = [name.removesuffix(suffix) for suffix in SPREAD_SUFFIXES if name.endswith(suffix)]
    return split_of(name) == "own" and any(mean in metrics for mean in means)
