"""The sum of a round: a tree that the cohort alone fixes.

So the result does not depend on the number of workers. A worker adds its clients from left to right. The server adds the
partial aggregates pairwise, in the order of their index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import ClassVar

from torch import Tensor

from fedlit.aggregation.blocks import Float64Blocks
from fedlit.aggregation.sum_tree import SumTree
from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Aggregate, ClientFailure, PartialAggregate
from fedlit.core.model import FitResult
from fedlit.core.tensors import Groups, Layout


class Aggregator(ABC):
    """A monoid over decoded messages: the sum of a round's updates.

    Attributes:
        keeps_messages: True if the sum holds every message, so that its memory grows with the cohort.
    """

    keeps_messages: ClassVar[bool] = False

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    @abstractmethod
    def add(self, total: Tensor | None, vector: Tensor, weight: float) -> Tensor:
        """Add one client's vector.

        Args:
            total: the sum so far, which is overwritten; None for an empty sum.
            vector: float64 of shape (d,), which is overwritten.
            weight: weight of the client.
        """

    def add_float32(self, total: Tensor | None, numbers: Float64Blocks, weight: float) -> Tensor:
        """Add one client's vector of float32 numbers; by default by `add`.

        Args:
            total: the sum so far, which is overwritten; None for an empty sum.
            numbers: the vector of shape (d,), whose float64 numbers are overwritten.
            weight: weight of the client.
        """
        return self.add(total, numbers.whole(), weight)

    @abstractmethod
    def merge(self, left: Tensor, right: Tensor) -> Tensor:
        """The sum of two sums.

        Args:
            left: the sum of the earlier clients, which may be overwritten.
            right: the sum of the later clients.
        """

    @abstractmethod
    def finish(self, total: Tensor, weight: float) -> Tensor:
        """The aggregate vector of a sum.

        Args:
            total: the sum.
            weight: sum of the weights, > 0.

        Returns:
            float64 of shape (d,).
        """


def add_weighted(
    sums: Mapping[str, tuple[float, float]], more: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Add pairs (weight * value, weight) name by name, left to right."""
    total = dict(sums)
    for name, (value, weight) in more.items():
        before = total.get(name, (0.0, 0.0))
        total[name] = (before[0] + value, before[1] + weight)
    return total


def sum_metrics(fits: Iterable[FitResult], start: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Pairs (sum of examples * value, sum of examples) by logged name.

    They are added to those of earlier fits.
    """
    parts = ({name: (fit.examples * value, fit.examples) for name, value in fit.metrics.items()} for fit in fits)
    return reduce(add_weighted, parts, start)


def merge(aggregator: Aggregator, partials: Sequence[PartialAggregate]) -> PartialAggregate:
    """Merge partial aggregates left to right into that of one worker."""
    return reduce(lambda left, right: _merge_pair(aggregator, left, right), partials)


def _merge_pair(aggregator: Aggregator, left: PartialAggregate, right: PartialAggregate) -> PartialAggregate:
    return PartialAggregate(
        index=left.index,
        layout=left.layout or right.layout,
        total=_merge_totals(aggregator, left.total, right.total),
        weight=left.weight + right.weight,
        members=left.members + right.members,
        failures=left.failures + right.failures,
        metrics=add_weighted(left.metrics, right.metrics),
        up_bytes=left.up_bytes + right.up_bytes,
        steps=left.steps + right.steps,
        client_states={**left.client_states, **right.client_states},
        sum_of_squares=left.sum_of_squares + right.sum_of_squares,
        norms={**left.norms, **right.norms},
        sketches={**left.sketches, **right.sketches},
        clipped=left.clipped + right.clipped,
        plain_bytes=left.plain_bytes + right.plain_bytes,
        spent={**left.spent, **right.spent},
        pending={**left.pending, **right.pending},
        conceal_s=left.conceal_s + right.conceal_s,
    )


def _merge_totals(aggregator: Aggregator, left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return aggregator.merge(left, right)


class ReductionTree:
    """A tree of sums that adds partial aggregates pairwise, in index order.

    It holds at most log2 of their number.

    Args:
        aggregator: adds two sums.
        failures: failures of clients that did not train.
        up_bytes: bytes that clients sent before they trained.
    """

    def __init__(self, aggregator: Aggregator, failures: Sequence[ClientFailure] = (), up_bytes: int = 0) -> None:
        self._aggregator = aggregator
        self._tree = SumTree(aggregator.merge)
        self._next = 0
        self._sums: dict[str, tuple[float, float]] = {}
        self.layout: Layout | None = None
        self.members: list[int] = []
        self.failures: list[ClientFailure] = list(failures)
        self.client_states: dict[int, Groups] = {}
        self.spent: dict[int, Groups] = {}
        self.up_bytes = up_bytes
        self.steps = 0
        self.sum_of_squares = 0.0
        self.norms: dict[int, float] = {}
        self.sketches: dict[int, Tensor] = {}
        self.clipped = 0
        self.plain_bytes = 0

    def add(self, partial: PartialAggregate) -> None:
        """Add the next partial aggregate.

        Raises:
            ValueError: if its index is not the next one, or its layout differs from that of the others.
        """
        if partial.index != self._next:
            problem = f"partial aggregate {partial.index} arrived, and {self._next} is next"
            raise ValueError(f"{problem}: the result depends on the order of the sum")
        self._next += 1
        if partial.layout is not None:
            if self.layout not in (None, partial.layout):
                raise ValueError(
                    f"the updates of clients {partial.members} have another layout than the updates before"
                )
            self.layout = partial.layout
        if partial.height is not None:
            self._tree.push(partial.height, partial.total, partial.weight)
        self.members += partial.members
        self.failures += partial.failures
        self.client_states |= partial.client_states
        self.spent |= partial.spent
        self.up_bytes += partial.up_bytes
        self.steps += partial.steps
        self.sum_of_squares += partial.sum_of_squares
        self.norms |= partial.norms
        self.sketches |= partial.sketches
        self.clipped += partial.clipped
        self.plain_bytes += partial.plain_bytes
        self._sums = add_weighted(self._sums, partial.metrics)

    def root(self) -> tuple[Tensor | None, float]:
        """Add the subtrees that are left.

        Returns:
            The sum of all partial aggregates, None without any, and its weight.
        """
        return self._tree.root()

    def finish(
        self, layout: Layout, opened: Tensor, weight: float, population: int, clients: float | None = None
    ) -> Aggregate:
        """The aggregate of the opened sum.

        Args:
            layout: layout of the updates.
            opened: the root's sum after the channel opened it.
            weight: the root's weight, or a fixed divisor, > 0.
            population: number of clients in the federation.
            clients: expected number of updates where the divisor is fixed; None for the number of members.
        """
        groups = layout.groups(self._aggregator.finish(opened, weight))
        return Aggregate(groups, weight, len(self.members) if clients is None else clients, population)

    def metrics(self) -> dict[str, float]:
        """Metrics that the clients' modules logged, averaged by examples."""
        return {name: total / examples for name, (total, examples) in self._sums.items() if examples}
