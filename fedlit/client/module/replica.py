"""One module that serves many fits.

Each fit loads weights and starts from the module's original state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric, MetricCollection

from fedlit.client.lightning_internals import overrides, quiet_warnings, remove_unpicklable_hparams
from fedlit.client.module.hooks import HookSnapshot
from fedlit.client.module.snapshot import ModuleSnapshot
from fedlit.core.errors import ConfigError
from fedlit.core.model import Model
from fedlit.core.torch_internals import copy_in_place, non_persistent_buffers, own_children, set_buffer


class ModuleReplica:
    """One module for one fit after the other.

    Each fit loads weights and builds a new optimizer.

    Args:
        module: the module; from now on it belongs to the replica.
        dtype: dtype of its floating-point weights and buffers; None for the module's own.

    Raises:
        ConfigError: if the module cannot be federated: see `unsupported_module`.
    """

    def __init__(self, module: LightningModule, dtype: torch.dtype | None = None) -> None:
        self.module = configure_module(module, dtype)
        for error in unsupported_module(module):
            raise error
        remove_unpicklable_hparams(module)
        if any(tensor.is_cuda for tensor in (*module.parameters(), *module.buffers())):
            module.cpu()  # where a Trainer leaves it after each run
        self._shown_warnings: set[tuple[str, str, str, int]] = set()
        persistent = set(module.state_dict())
        parts = {path: part for path, part in module.named_modules() if not isinstance(part, Metric)}
        groups = [part for part in parts.values() if isinstance(part, MetricCollection)]
        grouped = {id(metric) for group in groups for metric in group.modules()}
        metrics = [part for part in module.modules() if isinstance(part, Metric)]
        self._metrics = [(metric, id(metric) in grouped) for metric in metrics]
        self._children = [(part, set(own_children(part))) for part in parts.values()]
        self._snapshot = ModuleSnapshot(parts, [*module.parameters(), *module.buffers(), *metrics])
        self._hooks = HookSnapshot(parts.values(), module.parameters())
        self._requires_grad = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
        self._scratch = [
            (part, name, buffer.detach().clone())
            for part in parts.values()
            for name, buffer in non_persistent_buffers(part)
        ]
        self._parameters = dict(module.named_parameters())
        self._buffers = {
            f"{path}.{name}".lstrip("."): (part, name)
            for path, part in module.named_modules()
            for name, _ in part.named_buffers(recurse=False, remove_duplicate=False)
            if f"{path}.{name}".lstrip(".") in persistent
        }

    def _restore(self) -> None:
        """Restore the module's original state, except its weights.

        No fit may influence the next one.
        """
        self._snapshot.restore()
        self._hooks.restore()
        for parameter, requires_grad in self._requires_grad:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        for part, name, value in self._scratch:
            set_buffer(part, name, value.clone())
        for part, names in self._children:
            children = own_children(part)
            if children.keys() != names:
                for name in [name for name in children.keys() - names if _is_metric(children[name])]:
                    delattr(part, name)  # a tracker makes a metric in each epoch
        for metric, is_grouped in self._metrics:
            if is_grouped or metric.update_count:  # a metric may share the state of another one in its group
                metric.reset()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle, without changes by the last fit."""
        self._restore()
        return self.__dict__

    def unrestored_changes(self) -> dict[str, object]:
        """Return changed objects that cannot be restored, by their paths."""
        return self._snapshot.changes()

    def new_parameters(self) -> list[str]:
        """Return names of parameters that a fit added or replaced."""
        return [name for name, p in self.module.named_parameters() if self._parameters.get(name) is not p]

    def read(self) -> Model:
        """Return a copy of the module's weights, on the CPU."""
        return Model(
            {name: _copy(p) for name, p in self._parameters.items()},
            {name: _copy(b) for name, b in self._current_buffers()},
        )

    @torch.no_grad()
    def load(self, model: Model, only: Collection[str] | None = None) -> None:
        """Load weights into the module, and restore its original state otherwise.

        Args:
            model: the weights.
            only: names of the parameters to train; the others are frozen. None trains all.
        """
        self._restore()
        frozen = () if only is None else self._parameters.keys() - set(only)
        for name in frozen:
            self._parameters[name].requires_grad_(False)
        pairs = ((self._parameters, model.parameters), (dict(self._current_buffers()), model.buffers))
        for targets, sources in pairs:
            for name, target in targets.items():
                if target.dtype != sources[name].dtype:  # a Trainer's precision may have changed the module's dtypes
                    target.data = target.data.to(sources[name].dtype)
            if targets:
                copy_in_place([target.detach() for target in targets.values()], [sources[name] for name in targets])

    def _current_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and tensors of the persistent buffers.

        A move to another device replaces the tensors, so they are read each time.
        """
        for path, (part, name) in self._buffers.items():
            yield path, getattr(part, name)

    @contextmanager
    def limit_warnings(self) -> Iterator[None]:
        """Hide warnings that a fit cannot avoid; show each other one once."""
        with quiet_warnings():
            warnings.showwarning = self._show_once(warnings.showwarning)
            yield

    def _show_once(self, show: Callable[..., None]) -> Callable[..., None]:
        """Return a function that shows each warning once for this replica."""

        def show_new(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
            key = (category.__name__, str(message), filename, lineno)
            if key not in self._shown_warnings:
                self._shown_warnings.add(key)
                show(message, category, filename, lineno, *rest)

        return show_new


def configure_module(module: LightningModule, dtype: torch.dtype | None = None) -> LightningModule:
    """Return the module with the layers of its `configure_model`.

    Lightning calls `configure_model` again in each fit.

    Args:
        module: the module.
        dtype: dtype of its floating-point weights and buffers; None for the module's own.
    """
    if overrides(module, "configure_model"):
        module.configure_model()
    return module if dtype is None else module.to(dtype)


def unsupported_module(module: LightningModule) -> list[ConfigError]:
    """Return the reason why the module cannot be federated, or nothing."""
    name, tensors = type(module).__name__, {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if lazy := [path for path, tensor in tensors.items() if is_lazy(tensor)]:
        problem = f"has tensors without a shape before the first batch: {', '.join(lazy[:3])}"
        hint = "give its layers the sizes of their inputs, or run a batch through them in __init__"
        return [ConfigError("model", name, problem, hint)]
    if unreal := [path for path, tensor in tensors.items() if tensor.is_complex()]:
        problem = f"has complex tensors, and an update keeps only their real part: {', '.join(unreal[:3])}"
        return [ConfigError("model", name, problem, "store real and imaginary part as two real tensors")]
    if not any(parameter.requires_grad for parameter in module.parameters()):
        hint = "create its layers in __init__ or configure_model, not in setup"
        return [ConfigError("model", name, "has no parameter to train", hint)]
    return []


def _is_metric(part: nn.Module | None) -> bool:
    return isinstance(part, Metric | MetricCollection)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
