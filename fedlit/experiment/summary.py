"""What a finished run says of itself."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from fedlit.runs.record import RoundRecord
from fedlit.server.monitor import Monitor

PACKAGES = ("fedlit", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy")


class RunTracker:
    """Follows the rounds of a run: which is the best, which the last, what was sent."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.best: RoundRecord | None = None
        self.last: RoundRecord | None = None
        self._lost = self._up = self._down = 0

    def add(self, record: RoundRecord) -> None:
        """Takes in the next round."""
        self.last = record
        self._lost += record.lost is not None
        self._up += int(record.metrics["comm/up_bytes"])
        self._down += int(record.metrics["comm/down_bytes"])
        if self.monitor.is_better(record, self.best):
            self.best = record

    def summary(self, seconds: float, seed: int) -> dict[str, Any]:
        """The content of summary.json. `best` is the round chosen on the validation metric, or the last without one."""
        assert self.last is not None
        best, model = self.best or self.last, self.last.model
        assert model is not None  # of the last round it is there
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
