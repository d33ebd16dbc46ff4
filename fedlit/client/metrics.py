"""A lean replacement for a LightningModule's logging.

Lightning's own logging costs more than a step of a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor
from torchmetrics import Metric

Value = Tensor | float


class MetricAccumulator:
    """Replaces `LightningModule.log` while a Trainer runs.

    Values logged in steps are averaged over an epoch, weighted by batch size (or reduced as `reduce_fx` says). Torchmetrics
    are computed and reset at the end of an epoch. Both are then in `trainer.callback_metrics` under the same names.
    `averages` covers all epochs.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[Value, float]]] = {}
        self._metrics: dict[str, tuple[Metric, float]] = {}
        self._reductions: dict[str, str] = {}
        self._sums: dict[str, tuple[float, float]] = {}
        self._batch: Any = None
        self.callback_metrics: dict[str, Any] = {}

    def start_batch(self, batch: Any) -> None:
        """Begin a step on a batch."""
        self._batch = batch

    def size(self) -> int:
        """Return the number of samples in the current batch."""
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
        """Log a value as `LightningModule.log` does; the arguments for loggers are ignored.

        Raises:
            ValueError: if the value is a dictionary, or `reduce_fx` is not supported.
        """
        if isinstance(value, Mapping):
            raise ValueError(f"`self.log({name}, ...)` was given a dictionary; use `self.log_dict`")
        if self._batch is None:
            self._add(name, value.compute() if isinstance(value, Metric) else value, 1.0)
            if isinstance(value, Metric):
                value.reset()
            return
        weight = float(batch_size if batch_size is not None else self.size())
        if isinstance(value, Metric):
            self._metrics[name] = (value, self._metrics.get(name, (value, 0.0))[1] + weight)
        else:
            self._reductions[name] = _reduction_name(name, reduce_fx)
            self._values.setdefault(name, []).append(
                (value.detach().clone() if isinstance(value, Tensor) else value, weight)
            )

    def end_epoch(self) -> None:
        """Reduce the values that were logged in the epoch.

        A value that is logged before the next batch counts with weight 1.
        """
        self._batch = None
        for name, pairs in self._values.items():
            self._add(name, *_reduce(self._reductions[name], pairs))
        for name, (metric, weight) in self._metrics.items():
            self._add(name, metric.compute(), weight)
            metric.reset()
        self._values, self._metrics = {}, {}

    def averages(self) -> dict[str, float]:
        """Return the values by name, averaged over the epochs."""
        return {name: total / weight for name, (total, weight) in self._sums.items() if weight}

    def _add(self, name: str, value: Value, weight: float) -> None:
        number = float(value)
        total, weights = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (total + number * weight, weights + weight)
        self.callback_metrics[name] = value if isinstance(value, Tensor) else torch.tensor(number)


def batch_size(batch: Any) -> int:
    """Return the number of samples in a batch."""
    if isinstance(batch, tuple | list) and isinstance(batch[0], Tensor):
        return len(batch[0])
    return extract_batch_size(batch)


def _reduction_name(name: str, reduce_fx: str | Callable[..., Any]) -> str:
    reduction = reduce_fx if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", "")
    if reduction not in ("mean", "sum", "min", "max"):
        raise ValueError(f"`self.log({name}, reduce_fx={reduce_fx})`: reduce_fx must be mean, sum, min or max")
    return reduction


def _reduce(reduction: str, pairs: list[tuple[Value, float]]) -> tuple[float, float]:
    """Reduce pairs (value, weight).

    Returns:
        reduced value, sum of the weights.
    """
    values = torch.stack([torch.as_tensor(value, dtype=torch.float32).reshape(()) for value, _ in pairs]).cpu().double()
    weights = torch.tensor([weight for _, weight in pairs], dtype=torch.float64)
    total = float(weights.sum())
    if reduction == "mean":
        return float(values @ weights / total) if total else 0.0, total
    return float(getattr(values, reduction)()), total
