"""Private APIs of Lightning around logged values, checked with lightning 2.6.6.

Logging stays Lightning's own, at less cost.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import lightning.pytorch.utilities.signature_utils as signature_utils
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _METRICS,
    _get_default_dtype,
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from lightning.pytorch.utilities.data import _extract_batch_size
from torch import Tensor
from torchmetrics import Metric

LOGGER = "lightning.pytorch"
"""Name of the logger to which Lightning writes seven INFO lines for each Trainer."""

_argspecs: WeakKeyDictionary[Any, inspect.FullArgSpec] = WeakKeyDictionary()


@contextmanager
def quiet_logger() -> Iterator[None]:
    """Silence Lightning's INFO lines inside the block; warnings still appear.

    Relies on the name of Lightning's logger, `lightning.pytorch`; checked with lightning 2.6.6.
    """
    logger = logging.getLogger(LOGGER)
    level = logger.level
    if level >= logging.WARNING:
        yield
        return
    _set_level(logger, logging.WARNING)
    try:
        yield
    finally:
        _set_level(logger, level)


def _set_level(logger: logging.Logger, level: int) -> None:
    """Set the level of Lightning's logger.

    `Logger.setLevel` clears the caches of all loggers of a process, which takes longer than a small update. Only loggers
    below this one can have cached its level.
    Uses `logging.Logger._cache`; checked with Python 3.11 to 3.14.
    """
    logger.level = level
    known = logging.Logger.manager.loggerDict
    for name in _names_below(len(known)):
        getattr(known.get(name), "_cache", {}).clear()  # a placeholder has none


@lru_cache(maxsize=1)
def _names_below(number: int) -> list[str]:
    """The names of Lightning's loggers.

    Args:
        number: the number of all loggers; with another number the names are searched again.
    """
    return [name for name in logging.Logger.manager.loggerDict if f"{name}.".startswith(f"{LOGGER}.")]


def use_light_results(trainer: Trainer) -> None:
    """Give a Trainer's loops collections of logged values that cost little.

    `LightningModule.log`, the reductions, the names and the moments of computation and reset stay Lightning's own.
    Sets `_results` of the fit, validate and test loops; checked with lightning 2.6.6.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    epoch_loop._results = LightResults(training=True)
    for loop in (epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
        loop._results = LightResults(training=False)


@contextmanager
def signatures_once() -> Iterator[None]:
    """Inspect the signature of each training step once.

    Lightning inspects it several times in each fit, in each step and in each call of `self.log`.
    Replaces `inspect` in `lightning.pytorch.utilities.signature_utils`; checked with lightning 2.6.6.
    """
    original = signature_utils.inspect
    signature_utils.inspect = SimpleNamespace(getfullargspec=_argspec)  # type: ignore[assignment]
    try:
        yield
    finally:
        signature_utils.inspect = original


def _argspec(hook: Callable[..., Any]) -> inspect.FullArgSpec:
    function = getattr(hook, "__func__", hook)
    if function not in _argspecs:
        _argspecs[function] = inspect.getfullargspec(hook)
    return _argspecs[function]


def tensor_lengths(batch: Any) -> set[int]:
    """Return the lengths of the tensors in a batch.

    A tensor of one number has the length 1. Lightning finds tensors in nested containers and dataclasses. Its own batch size
    is the length of the first one.
    Uses `lightning.pytorch.utilities.data._extract_batch_size`; checked with lightning 2.6.6.
    """
    return {size for size in _extract_batch_size(batch) if size is not None}


class LightResults(_ResultCollection):
    """Lightning's collection of logged values, of which each is a `LightValue`."""

    @torch.compiler.disable
    def log(self, fx: str, name: str, value: Tensor | Metric, batch_size: int | None = None, **arguments: Any) -> None:
        """Add a value that `LightningModule.log` has checked and detached.

        Raises:
            MisconfigurationException: if a hook logs a name twice with different arguments.
        """
        index = self.dataloader_idx if arguments["add_dataloader_idx"] else None
        hook, key = (fx, f"{fx}.{name}") if index is None else (f"{fx}.{index}", f"{fx}.{name}.{index}")
        result = self.get(key)
        if result is None:
            meta = _metadata(hook, name, self.dataloader_idx, **arguments)
            result = self[key] = LightValue(meta, value, arguments)
        elif result.arguments != arguments:
            super().log(fx, name, value, batch_size=batch_size, **arguments)  # type: ignore[attr-defined]
            return
        result.forward(value, self._extract_batch_size(result, batch_size, result.meta))
        result.has_reset = False

    def metrics(self, on_step: bool) -> _METRICS:
        """Return the values of a step or an epoch by use."""
        if on_step and not any(result.meta.on_step for result in self.values()):
            return _METRICS(callback={}, log={}, pbar={})
        return super().metrics(on_step)

    def to(self, device: torch.device | str) -> LightResults:
        """Move all values to a device."""
        for result in self.values():
            result.to(device)
        return self


class LightValue(_ResultMetric):
    """A logged value or metric, lighter than a torchmetrics Metric.

    Args:
        metadata: name, hook and reduction.
        value: the first value, or the metric.
        arguments: arguments of the call that logged it.
    """

    def __init__(self, metadata: _Metadata, value: Tensor | Metric, arguments: dict[str, Any]) -> None:
        self.meta, self.arguments = metadata, arguments
        self.is_tensor, self.has_reset = isinstance(value, Tensor), False
        self._start(value.device)
        self._forward_cache = self._computed = None

    def _start(self, device: torch.device) -> None:
        """Set the state of an epoch without values."""
        if self.is_tensor:
            start = -torch.inf if self.meta.is_max_reduction else torch.inf if self.meta.is_min_reduction else 0.0
            self.value = torch.tensor(start, dtype=_get_default_dtype(), device=device)
            self.cumulated_batch_size = torch.tensor(0, device=device)

    def forward(self, value: Tensor | Metric, batch_size: int) -> None:
        """Add the value of a batch."""
        if self.is_tensor:
            self.to(value.device)
        self._computed = None
        super().forward(value, batch_size)

    def compute(self) -> Tensor:
        """Return the reduced value, computed once."""
        if self._computed is None:
            self._computed = super().compute()
        return self._computed

    def reset(self) -> None:
        """Forget the values of an epoch."""
        if isinstance(self.value, Metric):
            self.value.reset()
        else:
            self._start(self.value.device)
            self._forward_cache = self._computed = None
        self.has_reset = True

    def to(self, device: torch.device | str) -> LightValue:
        """Move the value to a device."""
        if self.value.device != torch.device(device):
            super().to(device)
        return self


def _metadata(
    hook: str,
    name: str,
    dataloader_idx: int | None,
    *,
    sync_dist: bool,
    sync_dist_fn: Any,
    sync_dist_group: Any,
    rank_zero_only: bool,
    **arguments: Any,
) -> _Metadata:
    """Return Lightning's description of a logged value."""
    meta = _Metadata(fx=hook, name=name, dataloader_idx=dataloader_idx, **arguments)
    meta.sync = _Sync(sync_dist_fn, sync_dist, rank_zero_only, _group=sync_dist_group)
    return meta
