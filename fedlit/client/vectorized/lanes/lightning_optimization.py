"""Private APIs of Lightning for stacked fits, checked with lightning 2.6.6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import (
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
    _validate_multiple_optimizers_support,
    _validate_optimizers_attached,
)
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_mean


def make_optimizers(module: LightningModule) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """Return the optimizers of a module and the configurations of its schedulers.

    Uses four functions of `lightning.pytorch.core.optimizer`, as a Trainer does; checked with lightning 2.6.6.

    Raises:
        Exception: as a Trainer raises it for a wrong return value of `configure_optimizers`.
    """
    result = module.configure_optimizers()
    optimizers, schedulers, monitor = _configure_optimizers([] if result is None else result)  # type: ignore[arg-type]
    configs = _configure_schedulers_automatic_opt(schedulers, monitor)
    _validate_multiple_optimizers_support(optimizers, module)
    _validate_optimizers_attached(optimizers, configs)
    return optimizers, configs


@contextmanager
def attached(parts: Sequence[LightningModule], trainer: Any) -> Iterator[None]:
    """Attach an object to modules as their Trainer inside the block.

    Sets `LightningModule._trainer`; checked with lightning 2.6.6.
    """
    before = [part._trainer for part in parts]
    for part in parts:
        part._trainer = trainer
    try:
        yield
    finally:
        for part, old in zip(parts, before, strict=True):
            part._trainer = old


def set_update_count(metric: Metric, count: int) -> None:
    """Set the number of batches that a metric has seen.

    Sets `Metric._update_count` and forgets `Metric._computed`; checked with lightning 2.6.6 and torchmetrics 1.9.
    """
    metric._update_count, metric._computed = count, None


def batch_value(metric: Metric) -> Tensor | None:
    """Return the value of a metric on its last batch.

    It is None if only `update` was called.

    Reads `Metric._forward_cache`; checked with lightning 2.6.6 and torchmetrics 1.9.
    """
    return metric._forward_cache


def has_running_mean(metric: Metric) -> bool:
    """Return True if a metric's state is a mean over batches.

    Reads `Metric._reductions`; checked with lightning 2.6.6 and torchmetrics 1.9.
    """
    return dim_zero_mean in metric._reductions.values()
