"""Recorded operations as a program.

It leaves out operations that are not needed, and uses its memory again from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from fedlit.client.vectorized.recording.arena import Arena, Room, place_rooms
from fedlit.client.vectorized.recording.operations import Operation, Value
from fedlit.client.vectorized.recording.products import Gradient, Product, late_products
from fedlit.core.torch_operations import changes_tensors, draws_random_numbers, makes_constant, out_variant

MIN_BYTES = 1 << 14
"""Size of a result from which it has a room in the arena; the C library's allocator is quick with smaller ones."""


class Program:
    """Runs the operations of a step on other tensors.

    What it returns is valid until the next program of the arena runs.

    Args:
        inputs: the values of the step's tensors.
        operations: the operations, in order.
        outputs: the values that are returned.
        arena: memory of the large results.
        num_lasting: number of the last inputs that do not change before the outputs are used; None to return tensors alone.
    """

    def __init__(
        self,
        inputs: Sequence[Value],
        operations: Sequence[Operation],
        outputs: Sequence[Value],
        arena: Arena,
        num_lasting: int | None = None,
    ) -> None:
        operations = shorten(operations, outputs)
        lasting = None if num_lasting is None else inputs[len(inputs) - num_lasting :]
        late = {} if lasting is None else late_products(operations, outputs, lasting)
        self.has_late_products = bool(late)
        operations = [operation for operation in operations if late.keys().isdisjoint(operation.results)]
        returned = [(late[output].args if output in late else (output,)) for output in outputs]
        rooms = _rooms(operations, [value for values in returned for value in values])
        self._arena, self._rooms = arena, place_rooms([*rooms.values()])
        self._run = _compile(inputs, operations, returned, [*rooms])

    def __call__(self, *tensors: Tensor) -> Sequence[Gradient]:
        """Return the outputs for the tensors of a step.

        See `late_products` for those that are a `Product`.
        """
        return self._run(self._arena.tensors(self, self._rooms), *tensors)


def shorten(operations: Sequence[Operation], outputs: Sequence[Value]) -> list[Operation]:
    """Return the operations that the outputs need.

    If no operation changes a tensor in place, those that compute the same run once, and constants are computed once for all
    steps. Outputs keep memory of their own, since their readers may change them.
    """
    if not any(changes_tensors(operation.function) for operation in operations):
        kept = {output.memory for output in outputs}
        operations = list(_merged(_without_constants(operations, kept), kept))
    needed, rest = {*outputs}, []
    for operation in reversed(operations):
        if _has_effects(operation) or not needed.isdisjoint(operation.results):
            needed.update(operation.values)
            rest.append(operation)
    return rest[::-1]


def _without_constants(operations: Sequence[Operation], kept: set[Value]) -> Iterator[Operation]:
    """Yield the operations whose results depend on the tensors of the step."""
    for operation in operations:
        if makes_constant(operation.function, len(operation.values)) and kept.isdisjoint(operation.results):
            for result in operation.new_values:
                result.is_constant = True
        else:
            yield operation


def _merged(operations: Iterator[Operation], kept: set[Value]) -> Iterator[Operation]:
    """Yield one of the operations that compute the same."""
    first: dict[str, Operation] = {}
    same: dict[Any, Value] = {}
    for operation in operations:
        operation.replace_values(same)
        key = repr((str(operation.function), operation.args, operation.kwargs))
        is_own = _has_effects(operation) or any(result.memory in kept for result in operation.new_values)
        if is_own or first.setdefault(key, operation) is operation:
            yield operation
        else:
            same |= zip(operation.new_values, first[key].new_values, strict=True)


def _has_effects(operation: Operation) -> bool:
    return changes_tensors(operation.function) or draws_random_numbers(operation.function)


def _rooms(operations: Sequence[Operation], outputs: Sequence[Value]) -> dict[Value, Room]:
    """Return the values that are written to the arena, with their rooms."""
    ends: dict[Value, int] = {}
    for number, operation in enumerate(operations):
        ends |= {value.memory: number for value in operation.values}
    ends |= {output.memory: len(operations) for output in outputs}
    return {
        result: Room(number, ends.get(result, number), result.tensor.shape, result.tensor.dtype)
        for number, operation in enumerate(operations)
        for result in operation.new_values
        if result.memory is result and _suits_arena(operation, result.tensor)
    }


def _suits_arena(operation: Operation, result: Tensor) -> bool:
    is_large = result.nbytes >= MIN_BYTES and result.device.type == "cpu" and result.is_contiguous()
    is_usual = operation.is_single and not _has_effects(operation)
    return is_large and is_usual and out_variant(operation.function) is not None


def _compile(
    inputs: Sequence[Value],
    operations: Sequence[Operation],
    returned: Sequence[tuple[Value, ...]],
    placed: Sequence[Value],
) -> Callable[..., Sequence[Gradient]]:
    """Return the operations as a function.

    Its arguments are the tensors in the arena's rooms, and the step's tensors. It returns a value, or the product of two.
    """
    names: dict[str, Any] = {"Product": Product}
    rooms = {value: f"rooms[{number}]" for number, value in enumerate(placed)}
    last = {value: number for number, operation in enumerate(operations) for value in operation.values}
    last |= dict.fromkeys((value for values in returned for value in values), len(operations))
    lines = []
    for number, operation in enumerate(operations):
        lines.append(_line(operation, names, rooms))
        used = dict.fromkeys([*operation.values, *operation.new_values])
        done = [value.name for value in used if not value.is_constant and last.get(value, number) == number]
        lines += [f"{' = '.join(done)} = None"] if done else []  # frees their memory
    texts = [[_text(value, names) for value in values] for values in returned]
    outputs = [text[0] if len(text) == 1 else f"Product({', '.join(text)})" for text in texts]
    lines.append(f"return [{', '.join(outputs)}]")
    head = f"def run(rooms, {', '.join(value.name for value in inputs)}):"
    exec("\n    ".join([head, *lines]), names)
    return names["run"]


def _line(operation: Operation, names: dict[str, Any], rooms: Mapping[Value, str]) -> str:
    """Return the code of an operation; constants get names."""
    function = operation.function
    texts = [_text(value, names) for value in operation.args]
    texts += [f"{key}={_text(value, names)}" for key, value in operation.kwargs.items()]
    for result in operation.new_values:
        if result in rooms and (variant := out_variant(function)) is not None:
            function = variant[0]
            texts.append(f"{variant[1]}={rooms[result]}")
    targets = ["_" if result is None else result.name for result in operation.results]
    target = "".join(f"{target}, " for target in targets)
    target = target.removesuffix(", ") if operation.is_single else target
    return f"{f'{target} = ' if target else ''}{_text(function, names)}({', '.join(texts)})"


def _text(leaf: Any, names: dict[str, Any]) -> str:
    """Return the code of an argument: one name or several."""
    if isinstance(leaf, Value) and not leaf.is_constant:
        return leaf.name
    if isinstance(leaf, tuple | list) and any(isinstance(part, Value) for part in leaf):
        return f"[{', '.join(_text(part, names) for part in leaf)}]"
    name = leaf.name if isinstance(leaf, Value) else f"k{len(names)}"
    names[name] = leaf.tensor if isinstance(leaf, Value) else leaf
    return name
