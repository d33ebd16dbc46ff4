"""The operations of torch that a step runs, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedlit.core.torch_internals import map_leaves, tree_leaves
from fedlit.core.torch_operations import changes_tensors, returns_view


class NotRecordable(Exception):
    """A step that depends on more than its tensors."""


@dataclass(eq=False)
class Value:
    """A tensor of a step.

    Args:
        name: its name in the step's code.
        tensor: the tensor of the step that was recorded.
        root: the value whose memory it shares; None for itself.
        is_constant: True if it is the same tensor in all steps.
    """

    name: str
    tensor: Tensor = field(repr=False)
    root: Value | None = field(default=None, repr=False)
    is_constant: bool = field(default=False, repr=False)

    @property
    def memory(self) -> Value:
        """The value that has the memory."""
        return self.root or self

    @property
    def place(self) -> tuple[Any, ...]:
        """Its part of the memory, and how it is read."""
        tensor = self.tensor
        marks = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
        return tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), marks


@dataclass
class Operation:
    """One operation of a step.

    Args:
        function: the operation of torch.
        args, kwargs: its arguments, with a `Value` for each tensor.
        results: its results; None for one that is no new tensor.
        is_single: True if it returns one tensor, and no sequence.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Value | None]
    is_single: bool

    @property
    def values(self) -> list[Value]:
        """The values among its arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Value)]

    @property
    def new_values(self) -> list[Value]:
        """The values among its results."""
        return [result for result in self.results if result is not None]

    def replace_values(self, others: Mapping[Any, Value]) -> None:
        """Replace values among its arguments."""

        def replace(leaf: Any) -> Any:
            return others.get(leaf, leaf) if isinstance(leaf, Value) else leaf

        self.args, self.kwargs = map_leaves(replace, self.args), map_leaves(replace, self.kwargs)


class OperationRecorder:
    """Records the operations of one step.

    Args:
        tensors: the tensors of the step.

    Attributes:
        changes_inputs: True if an operation that changes a tensor in place has one of them among its arguments.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.inputs = [Value(f"x{number}", tensor) for number, tensor in enumerate(tensors)]
        self.operations: list[Operation] = []
        self._values = {id(value.tensor): value for value in self.inputs}
        self._views = {(value, value.place): value for value in self.inputs}
        self._storages = {_storage(tensor) for tensor in tensors}
        self._alive: list[Any] = []  # an id belongs to one tensor as long as it lives
        self._problem: str | None = None
        self.changes_inputs = False

    def add(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Record one operation."""
        self._alive.append((args, kwargs, result))
        if any(isinstance(leaf, torch.Generator) for leaf in tree_leaves((args, kwargs))):
            self._problem = "a random generator of its own"
            return
        is_single = isinstance(result, Tensor)
        if not is_single and not isinstance(result, tuple | list | None):
            self._problem = f"{function} returns {type(result).__name__}"
            return
        arguments = map_leaves(self._value, tuple(args)), map_leaves(self._value, kwargs)
        operation = Operation(function, *arguments, [], is_single)
        if changes_tensors(function):
            self._views.clear()  # it may change how a tensor reads its memory
            self.changes_inputs |= any(value.memory in self.inputs for value in operation.values)
        elif is_single and self._is_known_view(operation, result):
            return
        parts = [result] if is_single else result or []
        operation.results = [self._new(operation, part) if isinstance(part, Tensor) else None for part in parts]
        self.operations.append(operation)

    def _is_known_view(self, operation: Operation, result: Tensor) -> bool:
        """Return True if an operation returns a tensor that there is already."""
        if not returns_view(operation.function) or not operation.values:
            return False
        view = Value("", result, operation.values[0].memory)
        if (known := self._views.get((view.memory, view.place))) is None:
            return False
        self._values[id(result)] = known
        return True

    def _new(self, operation: Operation, result: Tensor) -> Value | None:
        """Return the value of a result.

        It is None if the operation returns one of its arguments.
        """
        if id(result) in self._values:
            return None
        storage = _storage(result)
        owners = (value.memory for value in operation.values if storage and _storage(value.tensor) == storage)
        value = self._values[id(result)] = Value(f"v{len(self._values)}", result, next(owners, None))
        self._views.setdefault((value.memory, value.place), value)
        self._storages.add(storage)
        return value

    def _value(self, leaf: Any) -> Any:
        """Return the value of a tensor; other leaves stay."""
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in self._values:
            if _storage(leaf) and _storage(leaf) in self._storages:
                self._problem = "a tensor made of others without an operation"
            constant = Value(f"c{len(self._values)}", leaf.detach(), is_constant=True)
            self._values[id(leaf)] = self._views[constant, constant.place] = constant
            self._alive.append(leaf)
        return self._values[id(leaf)]

    def outputs(self, tensors: Sequence[Tensor]) -> list[Value]:
        """Return the values of the tensors that the step returned.

        Raises:
            NotRecordable: if they do not depend on the tensors of the step alone.
        """
        values = [self._value(tensor) for tensor in tensors]
        if self._problem is not None:
            raise NotRecordable(self._problem)
        return values


def _storage(tensor: Tensor) -> int:
    """Return the address of a tensor's memory.

    It is 0 for a tensor without elements.
    """
    return tensor.untyped_storage().data_ptr() if tensor.numel() else 0
