"""Messages between server and clients, server state, results of a round's jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from fedlit.core.model import Model
from fedlit.core.tensors import Groups, Layout, Tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Update:
    """The return value of a client rule.

    Args:
        groups: groups of named tensors that the server averages.
        weight: weight of this client in the average, >= 0.
        client_state: state that the client receives when it next takes part.
    """

    groups: Groups
    weight: float
    client_state: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """The part of the server state that each client receives.

    Args:
        model: the global model.
        tensors: further named tensors by name, such as SCAFFOLD's control variate.
    """

    model: Model
    tensors: Mapping[str, Tensors] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensors:
        """The named tensors under `name`; raises KeyError if there are none."""
        return self.tensors[name]


@dataclass(frozen=True)
class StageState:
    """The state of one stage of the channel.

    Args:
        shared: tensors that each client receives.
        private: tensors that stay with the server.
    """

    shared: Tensors = field(default_factory=dict)
    private: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class ServerState:
    """Everything that the server knows between two rounds.

    Args:
        round: completed rounds.
        shared: the part that each client receives.
        private: named tensors that stay with the server, such as its optimizer's momentum.
        channel: the state of each stage of the channel, by the stage's name.
    """

    round: int
    shared: Shared
    private: Mapping[str, Tensors] = field(default_factory=dict)
    channel: Mapping[str, StageState] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The global model."""
        return self.shared.model

    def with_shared(self, model: Model | None = None, **tensors: Tensors) -> ServerState:
        """Replace the global model; add or replace named tensors that clients receive."""
        return replace(self, shared=Shared(model or self.model, {**self.shared.tensors, **tensors}))

    def with_private(self, **tensors: Tensors) -> ServerState:
        """Add or replace named tensors that stay with the server."""
        return replace(self, private={**self.private, **tensors})


@dataclass(frozen=True)
class TrainJob:
    """Clients whose updates one worker adds up, left to right.

    Args:
        round: the round, counted from 0.
        index: position in the tree of sums.
        clients: ids of the clients.
        client_states: the state of each client that has one.
        budgets: maximum of optimizer steps, for clients with a step budget.
        attempt: how often this job's worker process was lost before; None without worker processes.
    """

    round: int
    index: int
    clients: tuple[int, ...]
    client_states: Mapping[int, Groups] = field(default_factory=dict)
    budgets: Mapping[int, int] = field(default_factory=dict)
    attempt: int | None = None


@dataclass(frozen=True)
class EvaluateJob:
    """The evaluation of one model on one split.

    Args:
        round: the round, counted from 0.
        split: `val` or `test`.
        client: the client whose own test set is used; None for the server's split.
        client_state: the client's state, where its personal model depends on it.
    """

    round: int
    split: str
    client: int | None = None
    client_state: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class LossJob:
    """A request for one client's mean training loss of the global model."""

    round: int
    client: int


Job = TrainJob | EvaluateJob | LossJob

Outcome = Literal[
    "exception", "out_of_memory", "not_finite", "bad_shape", "deadline", "surplus", "lost_worker", "planned"
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class ClientFailure:
    """A client whose update is not in the sum, and the reason."""

    client: int
    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True)
class PartialAggregate:
    """The sum over one job's clients.

    Args:
        index: position in the tree of sums.
        layout: position of each named tensor in the flat sum; None if no client succeeded.
        total: sum of weight * update, float64 of shape (d,); None if no client succeeded.
        weight: sum of the weights.
        members: clients in the sum.
        failures: clients that are not in the sum.
        metrics: for each logged name the pair (sum of examples * value, sum of examples).
        up_bytes: length of the serialised updates in bytes.
        steps: optimizer steps of all members.
        client_states: new state of the members.
        sum_of_squares: sum of weight * ||parameters of the update||^2.
        clipped: number of members whose update a clip made shorter.
        plain_bytes: length of the same updates as float32 numbers, in bytes.
        spent: groups of the client state with the privacy history of each client, in the sum or not.
    """

    index: int
    layout: Layout | None = None
    total: Tensor | None = None
    weight: float = 0.0
    members: tuple[int, ...] = ()
    failures: tuple[ClientFailure, ...] = ()
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    up_bytes: int = 0
    steps: int = 0
    client_states: Mapping[int, Groups] = field(default_factory=dict)
    sum_of_squares: float = 0.0
    clipped: int = 0
    plain_bytes: int = 0
    spent: Mapping[int, Groups] = field(default_factory=dict)


@dataclass(frozen=True)
class EvalResult:
    """Metrics that the module logged in one evaluation.

    The evaluation is on one split, or on one client's own test set.
    """

    split: str
    metrics: Mapping[str, float]
    client: int | None = None


LOSS_QUERY = "when asked for its loss"
"""End of the reason of a candidate's failure."""


@dataclass(frozen=True)
class LossResult:
    """A candidate's mean training loss, or NaN and the failure."""

    client: int
    value: float
    failure: ClientFailure | None = None


Result = PartialAggregate | EvalResult | LossResult


@dataclass(frozen=True)
class Aggregate:
    """The weighted mean of a round's updates.

    Args:
        groups: the mean, float64.
        weight: sum of the weights.
        clients: |S|, number of updates in the mean; the expected number where the divisor is fixed (see `Stage.denominator`).
        population: N, number of clients in the federation.
    """

    groups: Groups
    weight: float
    clients: float
    population: int

    def __getitem__(self, group: str) -> Tensors:
        """The tensors of a group.

        The mapping is empty if no client sent the group.
        """
        return self.groups.get(group, {})
