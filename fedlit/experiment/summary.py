"""The summary of a run.

The summary has the best round, the last round, the totals, and the metrics that people read first.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedlit.runs.metric_names import is_evaluation, split_of
from fedlit.runs.record import RoundRecord
from fedlit.server.federation import FederationParts
from fedlit.server.monitor import Monitor

PACKAGES = ("fedlit", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy")

INSTRUCTION_SET_VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "NPY_DISABLE_CPU_FEATURES"),
)
"""Environment variables that limit the instruction sets of torch, oneDNN, MKL and NumPy, so that they round differently."""

SPREAD_SUFFIXES = ("_std", "_lowest_tenth", "_highest_tenth", "_gini")
"""Suffixes of the figures of spread over clients that stand beside a mean: `own/loss_std` beside `own/loss`."""


class RunTracker:
    """The best round, the last round and the totals of a run.

    Args:
        monitor: the metric that decides which round is the best.
        statements: sentences about what is protected.
    """

    def __init__(self, monitor: Monitor, statements: Sequence[str] = ()) -> None:
        self.monitor, self._statements = monitor, list(statements)
        self.best: RoundRecord | None = None
        self.last: RoundRecord | None = None
        self.num_lost = self._up = self._down = 0
        self._uncompressed = 0.0

    def add(self, record: RoundRecord) -> None:
        """Add the next round."""
        self.last = record
        self.num_lost += record.lost is not None
        self._up += int(record.metrics["comm/up_bytes"])
        self._down += int(record.metrics["comm/down_bytes"])
        self._uncompressed += record.metrics.get("comm/ratio", 1.0) * record.metrics["comm/up_bytes"]
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
            "lost_rounds": self.num_lost,
            "seed": seed,
            "monitor": self.monitor.name,
            "best": {"round": best.number, "metrics": dict(best.metrics), "state_sha256": best.sha256},
            "last": {"round": self.last.number, "cohort": list(self.last.cohort), "metrics": dict(self.last.metrics)},
            "state_sha256": self.last.sha256,
            "parameters": sum(tensor.numel() for tensor in model.parameters.values()),
            "buffers": sum(tensor.numel() for tensor in model.buffers.values()),
            "protected": self._statements,
            "up_bytes": self._up,
            "compression_ratio": self._uncompressed / self._up if self._up else 1.0,
            "down_bytes": self._down,
            "seconds": seconds,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "platform": platform.platform(),
            "processor": describe_processor(),
        }


def protections(federation: FederationParts) -> list[str]:
    """Return a sentence for each part that protects something."""
    privacy = federation.trainer_config.privacy
    statements = [stage.statement() for stage in federation.channel.stages]
    statements += [] if privacy is None else [privacy.statement()]
    return [statement for statement in statements if statement is not None]


def describe_processor() -> dict[str, str]:
    """Return properties of the processor on which results depend.

    Returns:
        `name`; `instruction_set` that torch's own operators use, such as AVX2 or AVX512; `gpu`, if there is one; and each
        environment variable that limits instruction sets, if it is set.
    """
    import torch

    variables = {key: os.environ[key] for key in INSTRUCTION_SET_VARIABLES if key in os.environ}
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"name": _processor_name(), "instruction_set": torch.backends.cpu.get_cpu_capability(), **gpu, **variables}


def _processor_name() -> str:
    """Return the processor's name, with family and model where Linux names them."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().partition("\n\n")[0] if path.is_file() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    numbers = [f"{key.removeprefix('cpu ')} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return ", ".join([fields["model name"], *numbers])


def evaluation_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of evaluations.

    Of the metrics of clients' own test sets only the means are returned.
    """
    return {name: value for name, value in metrics.items() if is_evaluation(name) and not _is_spread(name, metrics)}


def _is_spread(name: str, metrics: Mapping[str, float]) -> bool:
    """True if the metric is a figure of spread beside its mean."""
    means = [name.removesuffix(suffix) for suffix in SPREAD_SUFFIXES if name.endswith(suffix)]
    return split_of(name) == "own" and any(mean in metrics for mean in means)
