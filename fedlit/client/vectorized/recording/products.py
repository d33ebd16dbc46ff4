"""Products of matrices that are computed when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedlit.client.vectorized.recording.operations import Operation, Value
from fedlit.core.torch_operations import changes_tensors, is_batched_product

MIN_ROW_BYTES = 1 << 16
"""Size of one client's gradient from which it is computed late: a smaller one costs more by itself than as part of a stack."""

PART_BYTES = 1 << 20
"""Products that are computed together: they stay in the cache."""


class Product:
    """The product of two matrices of each client.

    It is valid as long as both matrices are. It is not cut: with several threads the products of fewer clients may have other
    bits, which nobody has compared.

    Args:
        left, right: shapes (clients, n, k) and (clients, k, m).
    """

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self._left, self._right = left, right

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the places of a few clients and their products.

        Products have the shape (clients, n, m). The next ones use their memory.
        """
        shape = (self._left.shape[1], self._right.shape[2])
        nbytes = max(1, shape[0] * shape[1] * self._left.element_size())
        size = max(torch.get_num_threads(), PART_BYTES // nbytes)
        edges = _edges(len(self._left), size)
        memory = torch.empty((len(self._left[edges[-1]]), *shape), dtype=self._left.dtype, device=self._left.device)
        for place in edges:
            left, right = self._left[place], self._right[place]
            yield place, torch.bmm(left, right, out=memory if len(left) == len(memory) else memory[: len(left)])

    @torch.no_grad()
    def add_to(self, target: Tensor, factor: float, start: Tensor | None = None) -> None:
        """Set a tensor to start + factor * product.

        Few products stay in the cache of a CPU until they are added. Those of all clients may not.

        Args:
            target: shape (clients, n, m).
            factor: the factor.
            start: shape (1, n, m), for all clients; None for the target itself.
        """
        for place, products in self.parts():
            rows = target[place]
            torch.add(rows if start is None else start, products, alpha=factor, out=rows)

    def clone(self) -> Tensor:
        """Return the products in memory of their own, computed part by part."""
        return torch.cat([products.clone() for _, products in self.parts()])


def _edges(length: int, size: int) -> list[slice]:
    """Return the places of parts of about equal length.

    None is shorter than `size`, unless it is the only one.
    """
    count = max(1, length // size)
    return [slice(length * part // count, length * (part + 1) // count) for part in range(count)]


Gradient = Tensor | Product
"""A gradient of several clients, shape (clients, ...)."""


def has_large_rows(stacked: Tensor) -> bool:
    """Return True if the gradients of clients may be computed late."""
    return stacked.device.type == "cpu" and stacked[:1].nbytes >= MIN_ROW_BYTES


def late_products(
    operations: Sequence[Operation], outputs: Sequence[Value], lasting: Sequence[Value]
) -> Mapping[Value, Operation]:
    """Return the products that can be computed after all other operations.

    Nothing but the caller reads such a product, and its matrices do not change until then.

    Args:
        operations: the operations, in order.
        outputs: the values that are returned.
        lasting: the inputs that the caller does not change; it may change the others as soon as it has the outputs.
    """
    if any(changes_tensors(operation.function) for operation in operations):
        return {}
    read = [value.memory for operation in operations for value in operation.values]
    read += [output.memory for output in outputs]
    made = {*lasting, *(result for operation in operations for result in operation.new_values)}

    def is_late(operation: Operation, result: Value) -> bool:
        matrices = (value.memory for value in operation.values)
        return (
            has_large_rows(result.tensor)
            and read.count(result) == 1
            and result in outputs
            and made.issuperset(matrices)
        )

    return {
        result: operation
        for operation in operations
        if is_batched_product(operation.function)
        for result in operation.new_values
        if is_late(operation, result)
    }
