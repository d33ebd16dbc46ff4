"""What a LightningModule logs, gathered without Lightning's own machinery, which costs more than a step of a small model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor
from torchmetrics import Metric

Value = Tensor | float


class MetricAccumulator:
    """Stands in the place of `LightningModule.log` while a Trainer runs.

    Values logged in steps are averaged over an epoch, weighted by batch size (or reduced as `reduce_fx` says); torchmetrics
    are computed and reset at its end. Both then lie in `trainer.callback_metrics` under the same names. `averages` are over
    all epochs.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[Value, float]]] = {}
        self._metrics: dict[str, tuple[Metric, float]] = {}
        self._reduce: dict[str, str] = {}
        self._sums: dict[str, tuple[float, float]] = {}
        self._batch: Any = None
        self.callback_metrics: dict[str, Any] = {}

    def batch(self, batch: Any) -> None:
        """A step on this batch begins; None: no step is under way."""
        self._batch = batch

    def size(self) -> int:
        """Samples in the batch of the step that is under way."""
        return batch_size(self._batch)

    def log(
        self,
        name: str,
        value: Any,
        *_: Any,
        batch_size: int | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        **__: Any,
    ) -> None:
        """Same signature as `LightningModule.log`, whose other arguments say how to log to where there is no logger."""
        if isinstance(value, Mapping):
            raise ValueError(f"`self.log({name}, ...)` was given a dictionary; `self.log_dict` takes one")
        if self._batch is None:
            self._close(name, value.compute() if isinstance(value, Metric) else value, 1.0)
            if isinstance(value, Metric):
                value.reset()
            return
        weight = float(batch_size if batch_size is not None else self.size())
        if isinstance(value, Metric):
            self._metrics[name] = (value, self._metrics.get(name, (value, 0.0))[1] + weight)
        else:
            self._reduce[name] = _reduction(name, reduce_fx)
            self._values.setdefault(name, []).append(
                (value.detach().clone() if isinstance(value, Tensor) else value, weight)
            )

    def end_epoch(self) -> None:
        """Closes the epoch's averages; what is logged from here to the next batch counts as it is."""
        self._batch = None
        for name, pairs in self._values.items():
            self._close(name, *_reduced(self._reduce[name], pairs))
        for name, (metric, weight) in self._metrics.items():
            self._close(name, metric.compute(), weight)
            metric.reset()
        self._values, self._metrics = {}, {}

    def averages(self) -> dict[str, float]:
        """The values by name, averaged over the epochs."""
        return {name: total / weight for name, (total, weight) in self._sums.items() if weight}

    def _close(self, name: str, value: Value, weight: float) -> None:
        number = float(value)
        total, weights = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (total + number * weight, weights + weight)
        self.callback_metrics[name] = value if isinstance(value, Tensor) else torch.tensor(number)


def batch_size(batch: Any) -> int:
    """Samples in a batch."""
    if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor):
        return len(batch[0])
    return extract_batch_size(batch)


def _reduction(name: str, reduce_fx: str | Callable[..., Any]) -> str:
    reduction = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", "")
    if reduction not in ("mean", "sum", "min", "max"):
        raise ValueError(f"`self.log({name}, reduce_fx={reduce_fx})`: must be mean, sum, min or max")
    return reduction


def _reduced(reduction: str, pairs: list[tuple[Value, float]]) -> tuple[float, float]:
    values = torch.stack([torch.as_tensor(value, dtype=torch.float32).reshape(()) for value, _ in pairs]).cpu().double()
    weights = torch.tensor([weight for _, weight in pairs], dtype=torch.float64)
    total = float(weights.sum())
    if reduction == "mean":
        return float(values @ weights / total) if total else 0.0, total
    return float(getattr(values, reduction)()), total
