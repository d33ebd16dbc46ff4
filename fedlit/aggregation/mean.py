"""One round's running sum: a tree fixed by the cohort alone, so that its bits do not depend on who added what when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TypeVar

from torch import Tensor

from fedlit.core.messages import Aggregate, ClientFailure, PartialAggregate, TrainJob
from fedlit.core.tensors import Groups, Layout, norm

MAX_CHUNKS = 64
T = TypeVar("T")


def make_train_jobs(
    round: int,
    cohort: Sequence[int],
    memories: Mapping[int, Groups] | None = None,
    budgets: Mapping[int, int] | None = None,
) -> list[TrainJob]:
    """The cohort, in its order, cut into chunks of one client up to 64 clients, and of equal size above; with what they
    remember, and the steps after which they are cut short."""
    size = max(1, -(-len(cohort) // MAX_CHUNKS))
    parts = [tuple(cohort[start : start + size]) for start in range(0, len(cohort), size)]
    return [
        TrainJob(round, index, part, _those(memories or {}, part), _those(budgets or {}, part))
        for index, part in enumerate(parts)
    ]


def _those(by_client: Mapping[int, T], part: Sequence[int]) -> dict[int, T]:
    return {client: by_client[client] for client in part if client in by_client}


class ReductionTree:
    """Adds partials, given in the order of their index, pairwise: at most log2 of their number are held.

    Args:
        failures: of clients that do not train.
        bytes: length of what clients sent before.
    """

    def __init__(self, failures: Sequence[ClientFailure] = (), bytes: int = 0) -> None:
        self._tree: list[tuple[int, Tensor | None, float]] = []  # (height, sum, weight) of subtrees, tallest first
        self._next = 0
        self._layout: Layout | None = None
        self._sums: dict[str, tuple[float, float]] = {}
        self.members: list[int] = []
        self.failures: list[ClientFailure] = list(failures)
        self.client_states: dict[int, Groups] = {}
        self.up_bytes = bytes
        self.steps = 0
        self._square = 0.0

    def add(self, partial: PartialAggregate) -> None:
        """Takes in the next chunk's partial.

        Raises:
            ValueError: if it is not the next one, or its update is laid out otherwise than those before.
        """
        if partial.index != self._next:
            raise ValueError(
                f"partial {partial.index} came where {self._next} was due: the order of the sum is part of the result"
            )
        self._next += 1
        if partial.layout is not None:
            if self._layout not in (None, partial.layout):
                raise ValueError(
                    f"clients {partial.members} sent an update that is laid out otherwise than the others'"
                )
            self._layout = partial.layout
        self._push(0, partial.total, partial.weight)
        self.members += partial.members
        self.failures += partial.failures
        self.client_states |= partial.client_states
        self.up_bytes += partial.up_bytes
        self.steps += partial.steps
        self._square += partial.sum_of_squares
        self._sums = add_weighted(self._sums, partial.metrics)

    def finish(self, quorum: int = 1, population: int | None = None) -> tuple[Aggregate | None, str | None]:
        """The weighted mean of the updates, or None and why the round is lost: fewer than `quorum` updates came through, or
        nothing weighs anything. `population` is how many clients there are; None for as many as came through."""
        if len(self.members) < quorum:
            return None, f"{len(self.members)} good updates, and schedule.quorum={quorum}"
        while len(self._tree) > 1:
            self._merge(*self._tree.pop())
        total, weight = self._tree[0][1:] if self._tree else (None, 0.0)
        if total is None or self._layout is None or not weight > 0:
            return None, "no update weighs anything"
        groups, clients = self._layout.groups(total / weight), len(self.members)
        return Aggregate(groups, weight, clients, population or clients), None

    def drift(self, mean: Aggregate | None) -> dict[str, float]:
        """How far the updates' parameters are from their mean, as the root of the weighted mean of squared distances, and how
        long that mean is; nothing of a lost round. The squares are of sums alone: no update is kept."""
        if mean is None:
            return {}
        length = norm(mean["parameters"])
        distance = max(0.0, self._square / mean.weight - length**2) ** 0.5
        return {"drift/mean_distance": distance, "drift/update_norm": length}

    def metrics(self) -> dict[str, float]:
        """What the clients' modules logged, averaged by examples."""
        return {name: total / examples for name, (total, examples) in self._sums.items() if examples}

    def _push(self, height: int, total: Tensor | None, weight: float) -> None:
        while self._tree and self._tree[-1][0] == height:
            height += 1
            _, left, left_weight = self._tree.pop()
            total, weight = _sum(left, total), left_weight + weight
        self._tree.append((height, total, weight))

    def _merge(self, height: int, total: Tensor | None, weight: float) -> None:
        left_height, left, left_weight = self._tree.pop()
        self._tree.append((max(height, left_height) + 1, _sum(left, total), left_weight + weight))


def _sum(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def add_weighted(
    sums: Mapping[str, tuple[float, float]], more: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """For each name the sums of (weight * value, weight) of both, the first before the second."""
    total = dict(sums)
    for name, (value, weight) in more.items():
        before = total.get(name, (0.0, 0.0))
        total[name] = (before[0] + value, before[1] + weight)
    return total


def merge(partials: list[PartialAggregate]) -> PartialAggregate:
    """The partial that one worker would have made of all, left to right."""
    return reduce(_plus, partials)


def _plus(left: PartialAggregate, right: PartialAggregate) -> PartialAggregate:
    total = _sum(left.total, right.total)
    return PartialAggregate(
        left.index,
        left.layout or right.layout,
        total,
        left.weight + right.weight,
        left.members + right.members,
        left.failures + right.failures,
        add_weighted(left.metrics, right.metrics),
        left.up_bytes + right.up_bytes,
        left.steps + right.steps,
        {**left.client_states, **right.client_states},
        left.sum_of_squares + right.sum_of_squares,
    )
