"""A round in two exchanges: a basis, then updates in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator, ReductionTree, merge
from fedlit.aggregation.basis import BasisStage, find_basis
from fedlit.aggregation.channel import pack_channel_states
from fedlit.aggregation.jobs import make_exchange_jobs, make_train_jobs
from fedlit.aggregation.validation import invalid_values
from fedlit.core.messages import ClientFailure, Exchange, ExchangeResult, PartialAggregate, ServerState
from fedlit.core.tensors import Groups, Layout
from fedlit.executors.executor import Execute
from fedlit.server.client_store import ClientStateStore
from fedlit.server.federation import FederationParts
from fedlit.server.sampling.cohort import RoundPlan


@dataclass(kw_only=True)
class BasisRound:
    """The two exchanges of a round.

    Between them the updates of the cohort are pending in this process.

    Args:
        stage: the stage with two exchanges.
        layout: layout of the updates.
        plan: the round's plan.
        state: the server state that the clients receive.
        clients: the store of client states.
        execute: runs jobs.
        aggregator: adds messages.
        down_bytes: bytes of the basis that clients received; `run` counts them.
        figures: figures for the round's record; none.
    """

    stage: BasisStage
    layout: Layout
    plan: RoundPlan
    state: ServerState
    clients: ClientStateStore
    execute: Execute
    aggregator: Aggregator
    down_bytes: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        federation: FederationParts,
        plan: RoundPlan,
        state: ServerState,
        clients: ClientStateStore,
        execute: Execute,
    ) -> BasisRound | None:
        """The round after a state; None without such a stage."""
        stage = find_basis(federation.channel.stages)
        if stage is None:
            return None
        return cls(
            stage=stage,
            layout=federation.update_layout(state),
            plan=plan,
            state=state,
            clients=clients,
            execute=execute,
            aggregator=federation.aggregator,
        )

    def run(self) -> Iterator[PartialAggregate]:
        """Yield the basis and the sum of all updates as one aggregate."""
        trained, total = self._train()
        if total is None:
            yield trained
            return
        basis = self.stage.make_basis(total, self.layout)
        yield self._collect(trained, basis)

    def open_sum(self, total: Tensor | None, weight: float) -> tuple[Tensor | None, float]:
        """Return the sum and its weight as they are."""
        return total, weight

    def reason_if_lost(self, members: Sequence[int]) -> None:
        """None: the quorum alone decides, as in other rounds."""

    def _train(self) -> tuple[PartialAggregate, Tensor | None]:
        """Run the first exchange.

        Returns:
            The aggregate of all clients without its sum, and the sum.
        """
        tree, whole = ReductionTree(self.aggregator), PartialAggregate(index=0)
        clients = self.plan.clients
        jobs = make_train_jobs(self.state.round, clients, self.clients.read(clients), self.plan.budgets)
        for partial in self.execute(jobs, self.state):
            assert isinstance(partial, PartialAggregate)
            tree.add(partial)
            whole = merge(self.aggregator, [whole, replace(partial, total=None)])
        return whole, tree.root()[0]

    def _collect(self, trained: PartialAggregate, basis: Tensor) -> PartialAggregate:
        """Run the second exchange, with the clients of the first."""
        stage, request = self.stage, basis.numpy().tobytes()
        total, weight, up_bytes = None, 0.0, 0
        states: dict[int, Groups] = {}
        failures: list[ClientFailure] = []
        exchange = Exchange(2, stage.exchanges[1], dict.fromkeys(trained.members, request), trained.pending)
        self.down_bytes = len(request) * len(trained.members)
        for result in self.execute(make_exchange_jobs(self.state.round, exchange), self.state):
            assert isinstance(result, ExchangeResult)
            failures += result.failures
            for client, reply in result.replies.items():
                up_bytes += len(reply)
                message = stage.read_reply(reply, self.layout)
                if problem := invalid_values(message.numbers, message.weight):
                    failures.append(ClientFailure(client, "not_finite", problem))
                    continue
                total = self.aggregator.add(total, message.vector, message.weight)
                weight += message.weight
                own = pack_channel_states({stage.name: result.pending[client]})
                states[client] = {**trained.client_states[client], **own}
        return replace(
            trained,
            total=None if total is None else torch.cat([basis.double(), total]),
            weight=weight,
            members=tuple(states),
            failures=(*trained.failures, *failures),
            client_states=states,
            up_bytes=trained.up_bytes + up_bytes,
            pending={},
        )
