"""By which logged value a model is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedlit.core.errors import raise_errors, require, require_choice
from fedlit.runs.record import RoundRecord


@dataclass(frozen=True)
class Monitor:
    """The validation metric that chooses the best round. Never one of the test set's.

    Args:
        name: as the record has it; None where nothing is held out for validation: then the last round counts.
        mode: whether a larger value is better or a smaller one.
    """

    name: str | None = "val/accuracy"
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        why = "is measured on test samples, which choose nothing: neither the best round nor when to stop"
        remedy = "take a name that begins with val; what the test set says of the best round is in the summary"
        chooses = self.name is None or not self.name.startswith(("test", "own/"))
        raise_errors(
            require_choice("mode", self.mode, ["max", "min"]), require(chooses, "name", self.name, why, remedy)
        )

    def is_better(self, new: RoundRecord, best: RoundRecord | None) -> bool:
        """Whether the new round is better than the best before it; of equal rounds the first is the best."""
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
        """Whether the round has come to the target."""
        value = None if record is None else record.metrics.get(self.name or "")
        if target is None or value is None:
            return False
        return value >= target if self.mode == "max" else value <= target
