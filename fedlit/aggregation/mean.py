"""The weighted mean of the updates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator


@dataclass(frozen=True)
class MeanAggregator(Aggregator):
    """The sum of weight * update, divided by the total weight."""

    def add(self, total: Tensor | None, vector: Tensor, weight: float) -> Tensor:
        """Add weight * vector."""
        scaled = vector if weight == 1 else vector.mul_(weight)
        return scaled if total is None else total.add_(scaled)

    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The sum of both, in the memory of the left one."""
        return left.add_(right)

    def finish(self, total: Tensor, weight: float) -> Tensor:
        """The sum divided by the weight."""
        return total / weight
