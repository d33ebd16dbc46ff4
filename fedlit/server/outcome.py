"""The outcome of a round's training: an opened sum, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedlit.aggregation import SumTicket
from fedlit.aggregation.aggregator import ReductionTree
from fedlit.aggregation.chunk import drift
from fedlit.aggregation.geometry import cosines_to_mean, mean_cosine
from fedlit.core.messages import Aggregate, PartialAggregate, Result, ServerState, StageState
from fedlit.server.federation import FederationParts
from fedlit.server.sampling.cohort import RoundPlan
from fedlit.server.summation.exchanges import Exchanges


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """The outcome of a round's training.

    Args:
        state: the server state after the round.
        tree: the sum of the updates, with its members and failures.
        lost: reason of a lost round, in which the model stays the same; None otherwise.
        metrics: figures of the sum for the round's record.
        down_bytes: bytes that clients received besides the broadcast.
        clients: figures of single clients, by name and client.
    """

    state: ServerState
    tree: ReductionTree
    lost: str | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    down_bytes: int = 0
    clients: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    def with_metrics(self, metrics: Mapping[str, float]) -> RoundOutcome:
        """The same outcome with further figures."""
        return replace(self, metrics={**self.metrics, **metrics})


def aggregate(
    federation: FederationParts,
    plan: RoundPlan,
    state: ServerState,
    partials: Iterable[Result],
    exchanges: Exchanges | None = None,
) -> RoundOutcome:
    """Add the partial aggregates, then step or lose the round.

    Args:
        federation: the parts.
        plan: the round's plan.
        state: the server state before the round.
        partials: partial aggregates in order.
        exchanges: the round's exchanges; None if it has one.
    """
    aggregator = federation.channel.summation(federation.aggregator) if exchanges is None else exchanges.aggregator
    tree = ReductionTree(aggregator, plan.failures, plan.up_bytes)
    for partial in partials:
        assert isinstance(partial, PartialAggregate)
        tree.add(partial)
    total, weight = tree.root()
    if exchanges is not None:
        total, weight = exchanges.open_sum(total, weight)
    figures, down_bytes = ({}, 0) if exchanges is None else (exchanges.figures, exchanges.down_bytes)
    lost = None if exchanges is None else exchanges.reason_if_lost(tree.members)
    lost = lost or _reason_if_lost(federation, plan, tree, weight)
    outcome = RoundOutcome(state=state, tree=tree, lost=lost, metrics=figures, down_bytes=down_bytes)
    ticket = sum_ticket(federation, plan, state, tree, weight)
    if lost is not None:
        channel = federation.channel.lose(ticket, state.channel)
        return replace(outcome, state=replace(state, round=state.round + 1, channel=channel))
    mean, channel = open_sum(federation, state, tree, total, ticket)
    new_state = replace(federation.algorithm.server(state, mean), round=state.round + 1, channel=channel)
    if not federation.channel.keeps_geometry:
        return replace(outcome, state=new_state)
    cosines = cosines_to_mean(tree.sketches)
    metrics = {**drift(tree.sum_of_squares, mean), **mean_cosine(cosines), **figures}
    clients = {"update_norm": tree.norms, "update_cosine": cosines}
    return replace(outcome, state=new_state, metrics=metrics, clients=clients)


def sum_ticket(
    federation: FederationParts, plan: RoundPlan, state: ServerState, tree: ReductionTree, weight: float
) -> SumTicket:
    """The facts about a round's sum that the channel's stages receive."""
    return SumTicket(
        round=state.round,
        seed=federation.seed,
        clients=tuple(plan.cohort),
        updates=len(tree.members),
        clipped=tree.clipped,
        weight=weight,
    )


def open_sum(
    federation: FederationParts, state: ServerState, tree: ReductionTree, total: Tensor | None, ticket: SumTicket
) -> tuple[Aggregate, dict[str, StageState]]:
    """Let the channel open a round's sum.

    Returns:
        The aggregate, and each stage's new part of the server state.
    """
    channel, layout = federation.channel, tree.layout or federation.update_layout(state)
    if total is None:
        total = torch.zeros(channel.encoded_layout(layout).size, dtype=torch.float64)
    opened, states = channel.open(layout, total, ticket, state.channel)
    divisor = channel.denominator
    weight = ticket.weight if divisor is None else divisor
    return tree.finish(layout, opened, weight, len(federation.registry), divisor), states


def _reason_if_lost(federation: FederationParts, plan: RoundPlan, tree: ReductionTree, weight: float) -> str | None:
    quorum = federation.schedule.quorum
    if federation.channel.releases_empty:
        return None
    if not plan.cohort:
        return "no client was sampled"
    if len(tree.members) < quorum:
        return f"{len(tree.members)} updates arrived, and schedule.quorum={quorum}"
    return None if weight > 0 else "the weights of all updates are 0"
