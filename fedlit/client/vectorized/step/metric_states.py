"""The states of torchmetrics, with one row for each client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torchmetrics import Metric

from fedlit.client.vectorized.lanes.lightning_optimization import has_running_mean, set_update_count
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.core.errors import ConfigError

States = dict[str, dict[str, Tensor]]
"""Tensors of the metrics that clients update, by path and name."""


class MetricStates:
    """The states of a module's torchmetrics for several clients.

    Args:
        module: class name of the module, for errors.
        metrics: its metrics by path.
        clients: number of clients.
        recorded: recorded operations, which compute the metrics too.
    """

    def __init__(self, module: str, metrics: Mapping[str, Metric], clients: int, recorded: RecordedSteps) -> None:
        self.metrics, self._module, self._clients, self._recorded = metrics, module, clients, recorded
        self._states: States = {}
        self._defaults: States = {}

    @property
    def have_running_means(self) -> bool:
        """True if a state depends on the number of batches before."""
        return any(has_running_mean(metric) for metric in self.metrics.values())

    def rows(self, index: Any) -> States:
        """Return the states of some clients, shape (clients, ...)."""
        return {path: {name: value[index] for name, value in state.items()} for path, state in self._states.items()}

    @contextmanager
    def loaded(self, states: Mapping[str, Mapping[str, Tensor]], count: int) -> Iterator[None]:
        """Give the metrics one client's states inside the block.

        Args:
            states: the states; other metrics have their default ones.
            count: batches that the client has seen in its epoch.
        """
        try:
            for path, state in states.items():
                for name, value in state.items():
                    setattr(self.metrics[path], name, value)
                set_update_count(self.metrics[path], count)
            yield
        finally:
            for path in self.updated | states.keys():
                self.metrics[path].reset()

    def clear(self) -> None:
        """Reset all metrics, outside of the transforms of torch.

        A state that is made inside of them is a tensor of the transform, which cannot be copied.
        """
        for metric in self.metrics.values():
            metric.reset()

    @property
    def updated(self) -> set[str]:
        """Paths of the metrics that have seen a batch."""
        return {path for path, metric in self.metrics.items() if metric.update_called}

    def read(self) -> States:
        """Return the states of the metrics that have seen a batch.

        Raises:
            ConfigError: if a state grows with the data.
        """
        states = {path: dict(self.metrics[path].metric_state) for path in sorted(self.updated)}
        for path, state in states.items():
            if growing := [name for name, value in state.items() if isinstance(value, list)]:
                problem = (
                    f"has the metric {path} that keeps all predictions ({growing[0]}), a state that grows with the data"
                )
                raise ConfigError("model", self._module, problem, "use a binned metric, or executor=processes")
        return states  # type: ignore[return-value]

    def store(self, index: Any, states: States) -> None:
        """Store the states of some clients after a batch."""
        for path, state in states.items():
            if path not in self._states:
                self._defaults[path] = {
                    name: torch.as_tensor(self.metrics[path].metric_state[name]).clone() for name in state
                }
                self._states[path] = {name: self._default_rows(path, name, value) for name, value in state.items()}
            for name, value in state.items():
                self._states[path][name][index] = value

    def _default_rows(self, path: str, name: str, value: Tensor) -> Tensor:
        default = self._defaults[path][name].to(value.device, value.dtype)
        return default.expand(self._clients, *value.shape[1:]).clone()

    def reset(self, positions: range, paths: Sequence[str]) -> None:
        """Reset logged metrics of some clients at the beginning of an epoch."""
        for path in paths:
            for name, value in self._states.get(path, {}).items():
                value[positions.start : positions.stop] = self._defaults[path][name].to(value)

    def compute(self, paths: Sequence[str]) -> dict[str, list[float]]:
        """Return the values of logged metrics for each client.

        Raises:
            ConfigError: if the value of a metric is not one number.
        """
        try:
            return {path: self._values(path) for path in paths}
        finally:
            self.clear()

    def _values(self, path: str) -> list[float]:
        """Compute a metric for all clients at once if possible."""
        states = self._states[path]

        def compute(tensors: Sequence[Tensor]) -> tuple[list[Tensor], None]:
            return [vmap(partial(self._compute, path))(dict(zip(states, tensors, strict=True)))], None

        try:
            (values,), _ = self._recorded.run((path, tuple(states)), compute, [*states.values()])
            return values.tolist()
        except RuntimeError:  # of an operation that vmap does not know
            rows = (
                {name: value[client] for name, value in self._states[path].items()} for client in range(self._clients)
            )
            return [float(self._compute(path, row)) for row in rows]

    def _compute(self, path: str, state: Mapping[str, Tensor]) -> Tensor:
        with self.loaded({path: state}, 1):
            value = self.metrics[path].compute()
        if not isinstance(value, Tensor) or value.numel() != 1:
            problem = f"logs the metric {path}, whose value is not one number"
            raise ConfigError("model", self._module, problem, "log its elements under names of their own")
        return value.reshape(())
