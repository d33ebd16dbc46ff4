"""A round whose sum needs several exchanges: its groups, and their figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedlit.aggregation.aggregator import Aggregator
from fedlit.aggregation.secure.reply import received_layout
from fedlit.aggregation.secure.ring import RingSum
from fedlit.aggregation.secure.secure_stage import SecureStage
from fedlit.core.messages import ServerState
from fedlit.core.tensors import Layout
from fedlit.executors.executor import Execute
from fedlit.server.client_store import ClientStateStore
from fedlit.server.federation import FederationParts
from fedlit.server.sampling.cohort import RoundPlan


@dataclass(frozen=True, kw_only=True)
class SecureRound:
    """Parts that a round's groups need, and figures that they report.

    Args:
        stage: the secure stage.
        layout: layout of the vector that the stage receives.
        plan: the round's plan.
        state: the server state that the clients receive.
        clients: the store of client states.
        execute: runs jobs.
        seed: the experiment's seed.
        figures: bytes and seconds of each exchange by metric; groups add to them.
        reasons: reasons of lost groups; groups add to them.
    """

    stage: SecureStage
    layout: Layout
    plan: RoundPlan
    state: ServerState
    clients: ClientStateStore
    execute: Execute
    seed: int
    figures: defaultdict[str, float] = field(default_factory=lambda: defaultdict(int))
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        federation: FederationParts,
        plan: RoundPlan,
        state: ServerState,
        clients: ClientStateStore,
        execute: Execute,
    ) -> SecureRound | None:
        """The round after a state; None without a secure stage."""
        stage, channel = federation.channel.secure, federation.channel
        if stage is None:
            return None
        return cls(
            stage=stage,
            layout=received_layout(channel, federation.update_layout(state)),
            plan=plan,
            state=state,
            clients=clients,
            execute=execute,
            seed=federation.seed,
        )

    @property
    def aggregator(self) -> Aggregator:
        """Adds the sums of the groups, which are integers in the clear."""
        return RingSum()

    def open_sum(self, total: Tensor | None, weight: float) -> tuple[Tensor | None, float]:
        """The sum of all groups as real numbers, and their weight.

        Without any sum they are None and 0. The messages hold the weights, so `weight` is not used.
        """
        if total is None:
            return None, 0.0
        opened = self.stage.open_sum(total, self.layout)
        self.figures["secure/clipped"] = opened.clipped
        return opened.total, opened.weight

    def reason_if_lost(self, members: Sequence[int]) -> str | None:
        """The reason why the round is lost; None if it is not.

        Args:
            members: clients whose updates are in the sum.
        """
        return f"its secure sum is lost: {self.reasons[0]}" if self.reasons and not members else None

    @property
    def down_bytes(self) -> int:
        """Bytes that clients received besides the broadcast."""
        return int(sum(value for name, value in self.figures.items() if name.endswith("_down_bytes")))
