"""The content of one object, and how it is restored in place."""

from __future__ import annotations

import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedlit.client.module.objects import attributes_of, hidden_state, restore_attributes

ATOMS = (
    *(bool, int, float, complex, str, bytes, types.NoneType, np.generic, torch.dtype, torch.device),
    *(type, types.ModuleType, types.BuiltinFunctionType),
)
"""Types of values without content that could change."""

RESOURCES = (
    *("threading", "_thread", "queue", "multiprocessing", "concurrent", "asyncio", "subprocess", "socket", "weakref"),
    *("io", "_io", "tempfile", "logging", "lightning", "tensorboard", "tensorboardX", "wandb", "mlflow", "comet_ml"),
)
"""Packages whose objects stand for a thread, a file, a service or a Trainer. They are left as they are."""


@dataclass(frozen=True)
class Content:
    """The content of an object at one moment.

    Args:
        restore: function that restores the content; None if the object itself cannot change.
        args: arguments of `restore`.
        inner: names and values of the objects inside.
        hidden_state: bytes that change with an object that cannot be restored; None for other objects.
    """

    restore: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    inner: tuple[tuple[str, Any], ...] = ()
    hidden_state: bytes | None = None


def content_of(value: Any) -> Content:
    """Return the content of any object."""
    if isinstance(value, ATOMS):
        return Content()
    for kinds, capture in CAPTURES:
        if isinstance(value, kinds):
            return capture(value)
    if type(value).__module__.split(".")[0] in RESOURCES or _is_torchs(value):
        return Content()
    attributes = attributes_of(value)
    if attributes is not None:
        return Content(restore_attributes, (value, attributes), _named(attributes))
    return Content(hidden_state=hidden_state(value))


def _is_torchs(value: Any) -> bool:
    """Return True for an object of torch itself, such as a compiler's.

    Modules, optimizers and schedulers do not count.
    """
    known = (nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    return type(value).__module__.startswith("torch.") and not isinstance(value, known)


def _named(values: dict[Any, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((f".{name[1] if isinstance(name, tuple) else name}", value) for name, value in values.items())


def _numbered(values: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((f"[{number}]", value) for number, value in enumerate(values) if not isinstance(value, ATOMS))


def _tensor(value: Tensor) -> Content:
    return Content(_restore_tensor, (value, value.detach().clone())) if _is_writable(value) else Content()


def _is_writable(tensor: Tensor) -> bool:
    """Return True if the tensor can change in place.

    Inference tensors cannot, nor tensors with elements that share memory.
    """
    strides = tensor.stride() if tensor.layout == torch.strided else ()
    overlaps = any(stride == 0 and length > 1 for stride, length in zip(strides, tensor.shape, strict=False))
    return not tensor.is_inference() and not overlaps


def _restore_tensor(tensor: Tensor, value: Tensor) -> None:
    if (tensor.shape, tensor.dtype, tensor.device) == (value.shape, value.dtype, value.device):
        tensor.detach().copy_(value)
    else:
        tensor.data = value.clone()


def _array(value: np.ndarray) -> Content:
    inner = _numbered(value.ravel()) if value.dtype.hasobject else ()
    return Content(np.copyto, (value, value.copy()), inner) if value.flags.writeable else Content(inner=inner)


def _dict(value: dict[Any, Any]) -> Content:
    inner = tuple((f"[{name!r}]", entry) for name, entry in value.items() if not isinstance(entry, ATOMS))
    return Content(_restore_dict, (value, dict(value)), inner + _attributes_of_container(value))


def _restore_dict(value: dict[Any, Any], content: dict[Any, Any]) -> None:
    base: Any = OrderedDict if isinstance(value, OrderedDict) else dict  # a subclass may have an `update` of its own
    base.clear(value)
    base.update(value, content)


def _list(value: list[Any] | bytearray) -> Content:
    inner = _numbered(value) if isinstance(value, list) else ()
    return Content(_restore_list, (value, list(value)), inner + _attributes_of_container(value))


def _restore_list(value: list[Any] | bytearray, content: list[Any]) -> None:
    value[:] = content


def _set(value: set[Any]) -> Content:
    return Content(_restore_set, (value, list(value)), _numbered(value))


def _restore_set(value: set[Any], content: list[Any]) -> None:
    value.clear()
    value.update(content)


def _deque(value: deque[Any]) -> Content:
    return Content(_restore_deque, (value, list(value)), _numbered(value))


def _restore_deque(value: deque[Any], content: list[Any]) -> None:
    value.clear()
    value.extend(content)


def _attributes_of_container(value: Any) -> tuple[tuple[str, Any], ...]:
    """The attributes of a container whose class is the user's."""
    return ((" attributes", vars(value)),) if isinstance(getattr(value, "__dict__", None), dict) else ()


def _function(value: types.FunctionType) -> Content:
    if value.__module__ is not None and value.__module__.startswith(("torch.", "lightning.")):
        return Content()
    cells = [cell for cell in value.__closure__ or () if _is_filled(cell)]
    contents = [cell.cell_contents for cell in cells]
    inner = (*contents, value.__defaults__, value.__kwdefaults__, vars(value))
    return Content(_restore_cells, (cells, contents), tuple(_closure_names(value, inner)))


def _closure_names(value: types.FunctionType, inner: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    names = [*value.__code__.co_freevars, "defaults", "keyword defaults", "attributes"]
    yield from ((f" {name}", content) for name, content in zip(names[-len(inner) :], inner, strict=True))


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # the variable has no value yet
        return False


def _restore_cells(cells: list[types.CellType], contents: list[Any]) -> None:
    for cell, content in zip(cells, contents, strict=True):
        cell.cell_contents = content


def _generator(value: torch.Generator | np.random.Generator | np.random.RandomState | random.Random) -> Content:
    if isinstance(value, torch.Generator):
        return Content(torch.Generator.set_state, (value, value.get_state()))
    if isinstance(value, np.random.Generator):
        return Content(_restore_bits, (value, value.bit_generator.state))
    if isinstance(value, np.random.RandomState):
        return Content(np.random.RandomState.set_state, (value, value.get_state()))
    return Content(random.Random.setstate, (value, value.getstate()))


def _restore_bits(value: np.random.Generator, state: Any) -> None:
    value.bit_generator.state = state


CAPTURES: tuple[tuple[Any, Callable[[Any], Content]], ...] = (
    (Tensor, _tensor),
    (np.ndarray, _array),
    (torch.Generator | np.random.Generator | np.random.RandomState | random.Random, _generator),
    (dict, _dict),
    (list | bytearray, _list),
    (set, _set),
    (deque, _deque),
    (tuple | frozenset, lambda value: Content(inner=_numbered(value) + _attributes_of_container(value))),
    (types.FunctionType, _function),
    (types.MethodType, lambda value: Content(inner=((" self", value.__self__), (" function", value.__func__)))),
    (partial, lambda value: Content(inner=((" function", value.func), (" args", value.args), ("", value.keywords)))),
)
"""Function that captures the content of each kind of object."""
