"""The sum over one job's clients, and the drift."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator, sum_metrics
from fedlit.aggregation.basis import find_basis
from fedlit.aggregation.blocks import Float64Blocks
from fedlit.aggregation.channel import Channel
from fedlit.aggregation.channel.message import Message
from fedlit.aggregation.geometry import sketch
from fedlit.aggregation.validation import invalid_values, valid_weight
from fedlit.core.errors import ConfigError
from fedlit.core.messages import Aggregate, ClientFailure, PartialAggregate
from fedlit.core.model import FitResult
from fedlit.core.tensors import Groups, Layout, Tensors, norm

UNCHANGED = Channel()
"""The channel without any stage or codec."""


@dataclass
class ChunkSum:
    """The growing sum over one job's clients, in float64.

    Args:
        aggregator: adds the updates.
        channel: decodes the messages.
        layout: layout of the updates.
        seed: seed of the experiment.

    Attributes:
        failures: clients that are not in the sum.
        spent: privacy history of each client, in the sum or not.
    """

    aggregator: Aggregator
    channel: Channel
    layout: Layout
    seed: int = 0
    failures: list[ClientFailure] = field(default_factory=list)
    spent: dict[int, Groups] = field(default_factory=dict)
    _total: Tensor | None = None
    _weight: float = 0.0
    _square: float = 0.0
    _norms: dict[int, float] = field(default_factory=dict)
    _sketches: dict[int, Tensor] = field(default_factory=dict)
    _clipped: int = 0
    _up_bytes: int = 0
    _plain_bytes: int = 0
    _steps: int = 0
    _metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    _client_states: dict[int, Groups] = field(default_factory=dict)
    _pending: dict[int, Tensors] = field(default_factory=dict)
    _conceal_s: float = 0.0

    @property
    def zeroes_invalid(self) -> bool:
        """True if an update that is not finite counts as zeros."""
        return any(stage.zeroes_invalid for stage in self.channel.stages)

    def count_bytes(self, nbytes: int) -> None:
        """Count a message; an update without tensors is not sent."""
        if self.layout.size:
            self._up_bytes += nbytes
            self._plain_bytes += self._plain_nbytes

    @cached_property
    def _plain_nbytes(self) -> int:
        return UNCHANGED.nbytes(self.layout)

    @cached_property
    def _parameters(self) -> slice:
        return self.layout.span("parameters")

    def encode(
        self, vector: Tensor, weight: float, *, client: int, **facts: Any
    ) -> tuple[bytearray, dict[str, Tensors]]:
        """Encode one client's update: see `Channel.encode`.

        Tensors for a later exchange of the round are kept for the partial aggregate.
        """
        start = time.perf_counter()
        encoded, own = self.channel.encode(self.layout, vector, weight, client=client, **facts)
        self._conceal_s += time.perf_counter() - start
        if (stage := self.channel.secure or find_basis(self.channel.stages)) is not None:
            self._pending[client] = own.pop(stage.name)
        return encoded, own

    def add(
        self, encoded: bytearray, client: int, client_state: Groups, fits: Sequence[FitResult], old_state: Groups
    ) -> str:
        """Decode one client's message, and add it if it is valid.

        If it is invalid, and such an update counts as zeros, zeros are added, and the client keeps its old state.

        Args:
            encoded: the message.
            client: id of the client.
            client_state: the client's new state.
            fits: results of the client's fits.
            old_state: the client's state before the round.

        Returns:
            The reason why the message is invalid; an empty string if it is in the sum.
        """
        self.count_bytes(len(encoded))
        message = self.channel.decode(self.layout, encoded)
        problem = self._add(message, client, client_state, fits)
        if problem and self.zeroes_invalid:
            zeros = Message(torch.zeros_like(message.numbers), valid_weight(message.weight), message.clipped)
            self._add(zeros, client, old_state, fits)
        return problem

    def add_plain(
        self,
        vector: Tensor,
        weight: float,
        client: int,
        client_state: Groups,
        fits: Sequence[FitResult],
        max_norm: float | None = None,
    ) -> str:
        """Add one client's update as it comes over a plain channel.

        All results have the bits that `encode` and `add` give. Bytes are counted without being made; all checks stay.

        Args:
            vector: the update, float32 of shape (d,).
            weight: weight of the client.
            client: id of the client.
            client_state: the client's new state.
            fits: results of the client's fits.
            max_norm: see `FailurePolicy`.

        Returns:
            The reason why the update is invalid; an empty string if it is in the sum.
        """
        self.count_bytes(self._plain_nbytes)
        return self._add(Message(vector, weight), client, client_state, fits, max_norm)

    def _add(
        self,
        message: Message,
        client: int,
        client_state: Groups,
        fits: Sequence[FitResult],
        max_norm: float | None = None,
    ) -> str:
        """Add a decoded message: see `add` and `add_plain`."""
        vector, weight, span = message.numbers, message.weight, self._parameters
        exact = Float64Blocks(vector)
        has_geometry = self.channel.keeps_geometry
        square = exact.square(span) if has_geometry else math.nan
        finite = span if math.isfinite(square) else slice(0, 0)  # a square is positive, so none hides another
        if problem := invalid_values(vector, weight, max_norm, hides_clients=self.channel.hides_clients, finite=finite):
            return problem
        if self.channel.denominator is not None and weight not in (0.0, 1.0):
            problem = f"gives client {client} the weight {weight}, and a fixed divisor takes weights of 0 and 1 alone"
            raise ConfigError("algorithm", "", problem, "give each client the weight 1")
        if has_geometry:
            self._square += weight * square
            self._norms[client] = square**0.5
            self._sketches[client] = weight * sketch(vector[span], self.seed)
        if vector.dtype == torch.float32:
            self._total = self.aggregator.add_float32(self._total, exact, weight)
        else:
            self._total = self.aggregator.add(self._total, vector, weight)
        self._weight += weight
        self._clipped += message.clipped
        self._client_states[client] = client_state
        self._steps += sum(fit.steps for fit in fits)  # the fits themselves keep models in memory
        self._metrics = sum_metrics(fits, self._metrics)
        return ""

    def partial(self, index: int) -> PartialAggregate:
        """The partial aggregate of a job with this index."""
        return PartialAggregate(
            index=index,
            layout=self.layout if self._client_states else None,
            total=self._total,
            weight=self._weight,
            members=tuple(self._client_states),
            failures=tuple(self.failures),
            metrics={} if self.channel.secure is not None else self._metrics,
            up_bytes=self._up_bytes,
            steps=self._steps,
            client_states=self._client_states,
            sum_of_squares=self._square,
            norms=self._norms,
            sketches=self._sketches,
            clipped=self._clipped,
            plain_bytes=self._plain_bytes,
            spent=self.spent,
            pending=self._pending,
            conceal_s=self._conceal_s,
        )


def drift(sum_of_squares: float, mean: Aggregate) -> dict[str, float]:
    """Distance of the updates from their mean, and the mean's norm.

    Both are of the parameters. The distance is the root of the weighted mean of squared distances. It follows from sums alone,
    so no update is kept.

    Args:
        sum_of_squares: sum of weight * ||parameters of the update||^2.
        mean: the mean of the updates.
    """
    length = norm(mean["parameters"])
    distance = max(0.0, sum_of_squares / mean.weight - length**2) ** 0.5
    return {"drift/mean_distance": distance, "drift/update_norm": length}
