"""A snapshot of a module's attributes: no fit influences the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlit.client.lightning_internals import own_attributes


class ModuleSnapshot:
    """The attributes of a module's parts at one moment, for `restore`.

    The snapshot covers numbers, strings, tensors, arrays, random generators, and lists, tuples, dicts, sets and deques of
    these. Objects of other classes keep the changes of a fit. Mutable values are restored in place, so that two names of one
    object stay two names of one object.

    Args:
        parts: submodules.
        weights: tensors that the snapshot leaves out, since loading weights restores them.
    """

    def __init__(self, parts: Iterable[nn.Module], weights: Iterable[Tensor]) -> None:
        self._attributes: list[tuple[nn.Module, bool, dict[str, Any]]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._generators: list[tuple[Any, Any]] = []
        seen = {id(tensor) for tensor in weights}
        for part in parts:
            is_library = type(part).__module__.startswith("torch.")
            attributes = {name: value for name, value in vars(part).items() if _is_covered(name, is_library)}
            self._attributes.append((part, is_library, attributes))
            for value in attributes.values():
                self._capture(value, seen)

    def _capture(self, value: Any, seen: set[int]) -> None:
        """Record the content of a value, and of the values inside it."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            if _is_writable(value):
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
        """Restore all recorded values, and remove attributes that are new."""
        for part, is_library, recorded in self._attributes:
            attributes = vars(part)
            if len(attributes) > len(recorded):
                new = [name for name in attributes.keys() - recorded.keys() if _is_covered(name, is_library)]
                for name in new:
                    delattr(part, name)
            attributes.update(recorded)
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


def _is_covered(name: str, is_library: bool) -> bool:
    """Return True if an attribute belongs to the module's author."""
    return name not in own_attributes() and not (is_library and name.startswith("_"))


def _is_writable(tensor: Tensor) -> bool:
    """Return True if the tensor can change in place.

    Inference tensors cannot, nor tensors with elements that share memory.
    """
    overlaps = any(stride == 0 and length > 1 for stride, length in zip(_strides(tensor), tensor.shape, strict=False))
    return not tensor.is_inference() and not overlaps


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
