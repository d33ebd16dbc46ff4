"""Values that several clients log, each for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor
from torchmetrics import Metric

from fedlit.client.vectorized.lanes.lightning_optimization import batch_value
from fedlit.client.vectorized.lanes.rows import to_device
from fedlit.client.vectorized.streams import IndexedBatch
from fedlit.core.errors import ConfigError

REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "mean": torch.add,  # of value * batch size
    "min": torch.minimum,
    "max": torch.maximum,
}
Clients = tuple[Sequence[int], Sequence[int]]
"""Positions of some clients, and the epoch of each."""
STARTS = {"sum": 0.0, "mean": 0.0, "min": torch.inf, "max": -torch.inf}
NAMES: dict[Any, str] = {
    torch.mean: "mean",
    torch.sum: "sum",
    torch.max: "max",
    torch.min: "min",
    sum: "sum",
    max: "max",
    min: "min",
}


@dataclass(frozen=True)
class LogCall:
    """One call of `self.log`, without its value.

    Args:
        name: name of the value.
        on_step, on_epoch: as in Lightning.
        reduction: `mean`, `sum`, `min` or `max` over the batches of an epoch.
        batch_size: the batch size that the call names; None for that of the batch.
        metric: path of the logged metric; None for a number.
    """

    name: str
    on_step: bool
    on_epoch: bool
    reduction: str
    batch_size: int | None
    metric: str | None


class LogRecorder:
    """Stands for `self.log` while several clients train together.

    Args:
        module: the module, whose parts may log too.
        metrics: the module's metrics by path.
    """

    def __init__(self, module: LightningModule, metrics: Mapping[str, Metric]) -> None:
        self._module = type(module).__name__
        self.parts = [part for part in module.modules() if isinstance(part, LightningModule)]
        self._paths = {id(metric): path for path, metric in metrics.items()}
        self.calls: list[LogCall] = []
        self.values: list[Tensor] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the values logged inside the block."""
        with ExitStack() as stack:
            for part in self.parts:
                part.log = self._log  # type: ignore[method-assign]
                stack.callback(delattr, part, "log")
            yield

    def begin(self) -> None:
        """Forget the calls of the last batch."""
        self.calls, self.values = [], []

    def _log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Record one call: the arguments are those of `LightningModule.log`."""
        reduction = reduce_fx if isinstance(reduce_fx, str) else NAMES.get(reduce_fx, "")
        metric = None
        if isinstance(value, Metric):
            metric = self._paths.get(id(value), metric_attribute)
            value = batch_value(value)
        elif reduction not in REDUCTIONS:
            raise self._error(f"logs {name} with a reduction of its own, which cannot run on stacked values")
        on_step, on_epoch = on_step is not False and value is not None, bool(on_epoch)  # the defaults of Lightning
        value = torch.as_tensor(0.0 if value is None else value)
        if value.numel() != 1:
            raise self._error(f"logs {name} with {value.numel()} numbers, and a logged value is one number")
        value = value if value.dtype in (torch.float32, torch.float64) else value.to(torch.get_default_dtype())
        self.values.append(value.detach().reshape(()))
        self.calls.append(LogCall(name, on_step, on_epoch, reduction, batch_size, metric))

    def _error(self, problem: str) -> ConfigError:
        return ConfigError("model", self._module, problem, "use executor=processes")


class LoggedValue:
    """One logged name of several clients.

    Args:
        call: the call that logged it first.
        clients: number of clients.
        device: device of the values.
    """

    def __init__(self, call: LogCall, clients: int, device: torch.device) -> None:
        self.call = call
        start = torch.full((clients,), STARTS[call.reduction], device=device)
        self._start, self._total = start, start.clone()
        self._weight, self.last = torch.zeros(clients, device=device), torch.zeros(clients, device=device)
        self.epochs: list[int | None] = [None] * clients  # the epoch in which each client logged it last

    def add(self, rows: Any, clients: Clients, values: Tensor, batch_size: int) -> None:
        """Add the values of a batch, shape (clients,)."""
        is_new = [self.epochs[position] != epoch for position, epoch in zip(*clients, strict=True)]
        for position, epoch in zip(*clients, strict=True):
            self.epochs[position] = epoch
        dtype = torch.promote_types(self._total.dtype, values.dtype)
        self._total, self.last = self._total.to(dtype), self.last.to(dtype)
        values = values.to(self.last.device, dtype, non_blocking=True)  # numbers are logged from the CPU
        self.last[rows] = values
        if not self.call.on_epoch or self.call.metric is not None:
            return
        before, weight = self._total[rows], self._weight[rows]
        if any(is_new):
            new = to_device(is_new, values.device)
            before = torch.where(new, self._start[rows].to(before.dtype), before)
            weight = weight.masked_fill(new, 0.0)
        is_mean = self.call.reduction == "mean"
        self._total[rows] = REDUCTIONS[self.call.reduction](before, values * batch_size if is_mean else values)
        self._weight[rows] = weight + batch_size

    def reduced(self) -> Tensor:
        """Return the reduction over the last epoch of each client."""
        return self._total / self._weight if self.call.reduction == "mean" else self._total


class LoggedValues:
    """All logged values of several clients.

    Args:
        clients: number of clients.
        device: device of the values.
    """

    def __init__(self, clients: int, device: torch.device) -> None:
        self._clients, self._device = clients, device
        self._values: dict[str, LoggedValue] = {}

    def add(
        self,
        calls: Sequence[LogCall],
        values: Sequence[Tensor],
        rows: Any,
        clients: Clients,
        batch: Any,
    ) -> None:
        """Add what some clients logged in one step.

        Args:
            calls, values: the calls, and their values of shape (clients,).
            rows: index of the clients: see `rows_of`.
            clients: their positions and epochs.
            batch: the batch of one of them; all have the same size.
        """
        for call, value in zip(calls, values, strict=True):
            if call.name not in self._values:
                self._values[call.name] = LoggedValue(call, self._clients, self._device)
            size = call.batch_size
            if size is None and call.on_epoch and call.reduction == "mean" and call.metric is None:
                size = _batch_size(batch)
            self._values[call.name].add(rows, clients, value, size or 0)

    def metrics(self, computed: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
        """Return each client's metrics under the names of `callback_metrics`.

        Args:
            computed: values of the logged torchmetrics of each client, by path.
        """
        results: list[dict[str, float]] = [{} for _ in range(self._clients)]
        for name, value in self._values.items():
            call = value.call
            found: dict[str, Sequence[float]] = {}
            if call.on_step:
                found |= dict.fromkeys((name, f"{name}_step" if call.on_epoch else name), value.last.tolist())
            if call.on_epoch:
                numbers = value.reduced().tolist() if call.metric is None else computed[call.metric]
                found |= dict.fromkeys((name, f"{name}_epoch" if call.on_step else name), numbers)
            for key, numbers in found.items():
                for client, epoch in enumerate(value.epochs):
                    if epoch is not None:
                        results[client][key] = numbers[client]
        return results

    def logged_metrics(self) -> list[str]:
        """Return the paths of the torchmetrics that were logged for an epoch."""
        return [value.call.metric for value in self._values.values() if value.call.on_epoch and value.call.metric]


def _batch_size(batch: Any) -> int:
    return len(batch.numbers) if isinstance(batch, IndexedBatch) else extract_batch_size(batch)
