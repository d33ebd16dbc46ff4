"""The validation metric that judges a round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedlit.core.errors import raise_errors, require, require_choice
from fedlit.runs.metric_names import split_of
from fedlit.runs.record import RoundRecord


@dataclass(frozen=True)
class Monitor:
    """The validation metric that chooses the best round.

    It is never a metric of a test set.

    Args:
        name: name of the metric in the record; None without a validation split: then the last round counts.
        mode: `max` if larger values are better, `min` if smaller ones are.
    """

    name: str | None = "val/accuracy"
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        problem = "is a test metric, and test metrics choose nothing: neither the best round nor when to stop"
        hint = "take a name that begins with val; the summary has the test metrics of the best round"
        is_allowed = self.name is None or split_of(self.name) not in ("test", "own")
        raise_errors(
            require_choice("mode", self.mode, ["max", "min"]), require(is_allowed, "name", self.name, problem, hint)
        )

    def is_better(self, new: RoundRecord, best: RoundRecord | None) -> bool:
        """True if a round is better than the best round before it.

        The first of equal rounds is the best.
        """
        if self.name is None:
            return True
        if self.name not in new.metrics:
            return False
        if not math.isfinite(new.metrics[self.name]):
            return False
        if best is None:
            return True
        gain = new.metrics[self.name] - best.metrics[self.name]
        return gain > 0 if self.mode == "max" else gain < 0

    def has_reached(self, record: RoundRecord | None, target: float | None) -> bool:
        """True if a round's metric has reached the target."""
        value = None if record is None else record.metrics.get(self.name or "")
        if target is None or value is None:
            return False
        return value >= target if self.mode == "max" else value <= target
