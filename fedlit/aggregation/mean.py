"""The weighted mean of the updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.blocks import Float64Blocks

MAX_EXACT_FACTOR = 2**29
"""Largest whole number whose product with any float32 number is exact in float64."""


@dataclass(frozen=True)
class MeanAggregator(Aggregator):
    """The sum of weight * update, divided by the total weight."""

    def add(self, total: Tensor | None, vector: Tensor, weight: float) -> Tensor:
        """Add weight * vector."""
        scaled = vector if weight == 1 else vector.mul_(weight)
        return scaled if total is None else total.add_(scaled)

    def add_float32(self, total: Tensor | None, numbers: Float64Blocks, weight: float) -> Tensor:
        """Add weight * vector, with the bits of `add`, in fewer passes."""
        if type(self).add is not MeanAggregator.add:  # of a subclass, which may need all numbers at once
            return super().add_float32(total, numbers, weight)
        is_exact = weight <= MAX_EXACT_FACTOR and float(weight).is_integer()  # then only the sum is rounded
        if numbers.is_single:
            block = numbers.whole()
            return total.add_(block, alpha=weight) if total is not None and is_exact else self.add(total, block, weight)
        sums = torch.empty(len(numbers.vector), dtype=torch.float64) if total is None else total
        for place, block in numbers:
            part = sums[place]
            if total is None:
                torch.mul(block, weight, out=part)
            elif is_exact:
                part.add_(block, alpha=weight)
            else:
                part.add_(block.mul_(weight))
        return sums

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The sum of both, in the memory of the left one."""
        return left.add_(right)

    def finish(self, total: Tensor, weight: float) -> Tensor:
        """The sum divided by the weight."""
        return total / weight
