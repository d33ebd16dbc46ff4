"""What travels between server and clients, and what a round leaves behind: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from torch import Tensor

from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Layout, Tensors

__all__ = [
    "LOSS_QUERY",
    "OUTCOMES",
    "Aggregate",
    "ClientFailure",
    "ContrastiveTerm",
    "EvalResult",
    "EvaluateJob",
    "FitResult",
    "GradientTerm",
    "Job",
    "LossJob",
    "LossResult",
    "Model",
    "Outcome",
    "PartialAggregate",
    "Result",
    "ServerState",
    "TrainJob",
    "Update",
]


@dataclass(frozen=True)
class Update:
    """What a client rule returns.

    Args:
        send: groups of named tensors to be averaged.
        weight: to average them with, >= 0.
        remember: what the client is given as its memory when it next takes part.
    """

    groups: Groups
    weight: float
    client_state: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class ServerState:
    """All that the server knows.

    Args:
        round: rounds done.
        shared: what each client is sent.
        private: what stays with the server, such as its optimizer's momentum.
    """

    round: int
    shared: Mapping[str, Model | Tensors]
    private: Mapping[str, Model | Tensors] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The global model."""
        model = self.shared["model"]
        assert isinstance(model, Model)
        return model

    def with_shared(self, **shared: Model | Tensors) -> ServerState:
        """The state with some of the shared entries replaced or added."""
        return replace(self, shared={**self.shared, **shared})

    def with_private(self, **private: Model | Tensors) -> ServerState:
        """The state with some of the private entries replaced or added."""
        return replace(self, private={**self.private, **private})


@dataclass(frozen=True)
class TrainJob:
    """Clients whose updates one worker adds up, left to right.

    Args:
        round: counted from 0.
        index: the place in the tree of sums.
        clients: their ids.
        memories: what those of them remember that took part before.
        budgets: optimizer steps after which a client is cut short, of those that are.
        attempt: how often this chunk's worker process was lost before; None where there is no worker process.
    """

    round: int
    index: int
    clients: tuple[int, ...]
    client_states: Mapping[int, Groups] = field(default_factory=dict)
    budgets: Mapping[int, int] = field(default_factory=dict)
    attempt: int | None = None


@dataclass(frozen=True)
class EvaluateJob:
    """One split of the data (`val`, `test`) for one model; with a client, its own part of it, and what it remembers where its
    own model hangs on that."""

    round: int
    split: str
    client: int | None = None
    client_state: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class LossJob:
    """A candidate for a round's cohort, asked for its mean training loss of the global model."""

    round: int
    client: int


Job = TrainJob | EvaluateJob | LossJob

Outcome = Literal[
    "exception", "out_of_memory", "not_finite", "bad_shape", "deadline", "surplus", "lost_worker", "planned"
]  # of a client whose update is not in the sum
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class ClientFailure:
    """A client whose update is not in the sum, and why."""

    client: int
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class PartialAggregate:
    """A chunk's sum: weight times update, in float64, of the clients that came through.

    Args:
        index: the chunk's place in the tree of sums.
        layout: how the flat sum is cut into named tensors; None if nobody came through.
        total: sum of weight * update, float64 of shape (d,); None if nobody came through.
        weight: sum of the weights.
        members: clients in the sum.
        failures: clients that are not.
        metrics: for each logged name (sum of examples * value, sum of examples).
        bytes: length of the serialised updates.
        steps: optimizer steps in all.
        memories: what the members remember from now on.
        square: sum of weight * ||parameters of the update||^2.
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


@dataclass(frozen=True)
class EvalResult:
    """What the module logged on one split, or on one client's part of it."""

    split: str
    metrics: Mapping[str, float]
    client: int | None = None


LOSS_QUERY = "asked for its loss"
"""How the reason of a candidate's failure ends."""


@dataclass(frozen=True)
class LossResult:
    """What a candidate answers: its mean training loss, or NaN and what it failed of."""

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
        clients: |S|, updates in the mean.
        population: N, clients in the federation.
    """

    groups: Groups
    weight: float
    clients: int
    population: int

    def __getitem__(self, group: str) -> Tensors:
        """The tensors of a group; none of one that nobody sent anything in."""
        return self.groups.get(group, {})
