"""Private APIs of torch for single operations, checked with torch 2.14.1.

Each use in fedlit goes through one small function of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FILLED = ("ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full")
"""Operations whose results depend on the shape of their argument alone."""


@contextmanager
def observe_operations(observe: Callable[..., None]) -> Iterator[None]:
    """Call a function after each operation of torch inside the block.

    Inside transforms of `torch.func` these are the operations on the tensors of all clients.

    Args:
        observe: function of the operation, its arguments, its keyword arguments and its result.

    Uses `torch.utils._python_dispatch.TorchDispatchMode`; checked with torch 2.14.1.
    """

    class Observer(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = operation(*args, **(kwargs or {}))
            observe(operation, args, kwargs or {}, result)
            return result

    with Observer():
        yield


def draws_random_numbers(operation: Any) -> bool:
    """Return True if an operation of torch uses a random generator.

    Uses `torch.Tag.nondeterministic_seeded` of its tags; checked with torch 2.14.1.
    """
    return torch.Tag.nondeterministic_seeded in operation.tags


def changes_tensors(operation: Any) -> bool:
    """Return True if an operation of torch changes one of its arguments.

    Uses `OpOverload._schema`; checked with torch 2.14.1.
    """
    return operation._schema.is_mutable


def returns_view(operation: Any) -> bool:
    """Return True if an operation returns a view of its first argument.

    Uses `OpOverload.is_view`; checked with torch 2.14.1.
    """
    return operation.is_view or operation.name() == "aten::_unsafe_view"  # whose schema does not say so


def is_batched_product(operation: Any) -> bool:
    """Return True for the operation that multiplies two matrices of each client.

    Uses `OpOverload.name`; checked with torch 2.14.1.
    """
    return operation.name() == "aten::bmm"


def makes_constant(operation: Any, num_tensors: int) -> bool:
    """Return True if no tensor's value changes an operation's result.

    Args:
        operation: an operation that changes no tensor.
        num_tensors: number of tensors among its arguments.

    Uses `OpOverload.overloadpacket`; checked with torch 2.14.1.
    """
    name = operation.overloadpacket.__name__
    return name in FILLED or (num_tensors == 0 and not draws_random_numbers(operation) and not name.startswith("empty"))


@cache
def out_variant(operation: Any) -> tuple[Any, str] | None:
    """Return the operation that writes the same result to a given tensor.

    One that torch generates from the operation itself is left out, since it copies the result.

    Returns:
        the operation and the name of its argument for the tensor; None if there is no such operation.

    Uses `OpOverload._schema` and `torch.Tag.generated`; checked with torch 2.14.1.
    """

    def signature(arguments: Any) -> list[tuple[str, str]]:
        return [(argument.name, str(argument.type)) for argument in arguments]

    own = signature(operation._schema.arguments)
    for name in operation.overloadpacket.overloads():
        other = getattr(operation.overloadpacket, name)
        outs = [argument.name for argument in other._schema.arguments if argument.is_out]
        rest = signature(argument for argument in other._schema.arguments if not argument.is_out)
        if len(outs) == 1 and rest == own and torch.Tag.generated not in other.tags:
            return other, outs[0]
    return None
