"""What a module holds beside its weights, and how it is put back: a fit must not reach the next one by it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

LIGHTNING_ATTRIBUTES = {name for name in vars(LightningModule()) if name.startswith("_")} | {"log"}
"""Attributes of a module that are not its author's; `log` is stood in for while a Trainer runs."""


class ModuleSnapshot:
    """The attributes of a module's parts as they are now: which there are, and what is in those that can be put back, which
    are numbers and words, tensors, arrays, generators of random numbers, and lists, tuples, dicts, sets and deques of them.

    Whatever can change in place is put back in place, so that two names of one thing stay two names of one thing. Objects
    of other classes keep what a fit left in them.

    Args:
        parts: submodules.
        weights: tensors that are put back by loading weights.
    """

    def __init__(self, parts: Iterable[nn.Module], weights: Iterable[Tensor]) -> None:
        self._attributes: list[tuple[nn.Module, bool, dict[str, Any]]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, Any]] = []
        seen = {id(tensor) for tensor in weights}
        for part in parts:
            library = type(part).__module__.startswith(
                ("torch.", "torchmetrics.")
            )  # whose own notes are the library's to keep
            self._attributes.append((part, library, {n: v for n, v in vars(part).items() if _is_own(n, library)}))
            for value in self._attributes[-1][2].values():
                self._capture(value, seen)

    def _capture(self, value: Any, seen: set[int]) -> None:
        """Notes what is in a value, and in the values in it."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            if _can_be_written(value):
                self._tensors.append((value, value.detach().clone()))
        elif isinstance(value, np.ndarray):
            if not value.dtype.hasobject and value.flags.writeable:
                self._arrays.append((value, value.copy()))
        elif isinstance(value, torch.Generator | np.random.Generator):
            self._generators.append((value, _state(value)))
        elif isinstance(value, dict | list | set | deque):
            self._containers.append((value, dict(value) if isinstance(value, dict) else list(value)))
        if isinstance(value, dict | list | tuple | set | deque):
            for inner in value.values() if isinstance(value, dict) else value:
                self._capture(inner, seen)

    def restore(self) -> None:
        """Puts all of it back; an attribute that was not there is removed."""
        for part, library, known in self._attributes:
            attributes = vars(part)
            if len(attributes) > len(known):
                for name in [name for name in attributes.keys() - known.keys() if _is_own(name, library)]:
                    delattr(part, name)
            attributes.update(known)
        for container, content in self._containers:
            _fill(container, content)
        for tensor, value in self._tensors:
            if (tensor.shape, tensor.dtype, tensor.device) == (value.shape, value.dtype, value.device):
                tensor.detach().copy_(value)
            else:
                tensor.data = value.clone()
        for array, content in self._arrays:
            np.copyto(array, content)
        for generator, state in self._generators:
            if isinstance(generator, torch.Generator):
                generator.set_state(state)
            else:
                generator.bit_generator.state = state


def _is_own(name: str, library: bool) -> bool:
    return name not in LIGHTNING_ATTRIBUTES and not (library and name.startswith("_"))


def _can_be_written(tensor: Tensor) -> bool:
    """Not if it was made in inference mode, or several of its elements share a place: then nobody can change it in place."""
    shared = any(stride == 0 and length > 1 for stride, length in zip(_strides(tensor), tensor.shape, strict=False))
    return not tensor.is_inference() and not shared


def _strides(tensor: Tensor) -> tuple[int, ...]:
    return tensor.stride() if tensor.layout == torch.strided else ()


def _state(generator: torch.Generator | np.random.Generator) -> Any:
    return generator.get_state() if isinstance(generator, torch.Generator) else generator.bit_generator.state


def _fill(container: Any, content: Any) -> None:
    if isinstance(container, list):
        container[:] = content
        return
    container.clear()
    if isinstance(container, dict):
        dict.update(container, content)
    elif isinstance(container, set):
        container.update(content)
    else:
        container.extend(content)
