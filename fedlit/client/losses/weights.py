"""The weight of a batch's loss in the loss of a shard."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from fedlit.client.lightning_logging import tensor_lengths

LoggedSizes = list[tuple[Any, int]]
"""Pairs (logged value, `batch_size` of `self.log`)."""


def loss_weight(batch: Any, loss: Tensor, logged: LoggedSizes, samples: int) -> int:
    """Return the weight of a batch's mean loss.

    The weight is the `batch_size` with which the module logs the loss; else the one with which it logs anything; else the
    length of the batch's tensors, as Lightning infers it. If these have no common length, the weight is the number of samples,
    with a warning.

    Args:
        batch: the batch.
        loss: the loss that `training_step` returned, without a graph.
        logged: what the module logged with a `batch_size` in this step.
        samples: samples that were loaded for the batch.
    """
    sizes = {size for value, size in logged if _is_loss(value, loss)} or {size for _, size in logged}
    source = "self.log is given different values of batch_size for the values of one batch"
    if not sizes:
        sizes, source = tensor_lengths(batch), "the tensors of a batch have different lengths"
    if len(sizes) == 1:
        return sizes.pop()
    lengths = f": {', '.join(map(str, sorted(sizes)))}" if sizes else ""
    warnings.warn(
        f"{source if sizes else 'a batch has no tensor'}{lengths}. The client's loss counts the batch as the {samples} "
        "samples that were loaded; self.log(NAME, loss, batch_size=n) sets another weight",
        stacklevel=2,
    )
    return samples


@contextmanager
def capture_batch_sizes(module: LightningModule) -> Iterator[LoggedSizes]:
    """Capture the values that the module logs with a `batch_size`."""
    captured: LoggedSizes = []
    log = module.log

    def capturing_log(name: str, value: Any, *arguments: Any, batch_size: int | None = None, **more: Any) -> None:
        if batch_size is not None:
            captured.append((value, batch_size))
        log(name, value, *arguments, batch_size=batch_size, **more)

    module.log = capturing_log  # type: ignore[method-assign]
    try:
        yield captured
    finally:
        del module.log


def _is_loss(value: Any, loss: Tensor) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and bool(value.detach().reshape(()) == loss.reshape(()))
