"""The start of a round whose sum needs several exchanges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.core.messages import PartialAggregate, ServerState
from fedlit.executors.executor import Execute
from fedlit.server.client_store import ClientStateStore
from fedlit.server.federation import FederationParts
from fedlit.server.sampling.cohort import RoundPlan
from fedlit.server.summation.basis import BasisRound
from fedlit.server.summation.group import run_groups
from fedlit.server.summation.round import SecureRound


class Exchanges(Protocol):
    """The exchanges of one round, after its partial aggregates were read."""

    @property
    def aggregator(self) -> Aggregator:
        """Adds the partial aggregates."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """Figures for the round's record."""
        ...

    @property
    def down_bytes(self) -> int:
        """Bytes that clients received besides the broadcast."""
        ...

    def open_sum(self, total: Tensor | None, weight: float) -> tuple[Tensor | None, float]:
        """The sum as real numbers, and its weight."""
        ...

    def reason_if_lost(self, members: Sequence[int]) -> str | None:
        """The reason why the round is lost; None if it is not."""
        ...


def start_exchanges(
    federation: FederationParts,
    plan: RoundPlan,
    state: ServerState,
    clients: ClientStateStore,
    execute: Execute,
) -> tuple[Exchanges, Iterator[PartialAggregate]] | None:
    """Start the round after a state; None if it needs one exchange.

    Returns:
        The exchanges, and the partial aggregates: they run while these are read.
    """
    secure = SecureRound.of(federation, plan, state, clients, execute)
    if secure is not None:
        return secure, run_groups(secure)
    basis = BasisRound.of(federation, plan, state, clients, execute)
    return None if basis is None else (basis, basis.run())
