"""Results of jobs, and the aggregate of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from fedlit.core.tensors import Groups, Layout, Tensors

if TYPE_CHECKING:
    from torch import Tensor

Outcome = Literal[
    "exception", "out_of_memory", "not_finite", "bad_shape", "deadline", "surplus", "lost_worker", "planned", "aborted"
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
        height: the sum is that of at most 2^height jobs, beginning with this one; None if an earlier one has this job's sum.
        members: clients in the sum.
        failures: clients that are not in the sum.
        metrics: for each logged name the pair (sum of examples * value, sum of examples).
        up_bytes: length of the serialised updates in bytes.
        steps: optimizer steps of all members.
        client_states: new state of the members.
        sum_of_squares: sum of weight * ||parameters of the update||^2.
        norms: norm of the parameters of each member's update, where the channel shows updates.
        sketches: weight * projection of the same parameters, see `geometry.sketch`.
        clipped: number of members whose update a clip made shorter.
        plain_bytes: length of the same updates as float32 numbers, in bytes.
        spent: groups of the client state with the privacy history of each client, in the sum or not.
        pending: tensors of each member for its next exchange in this round.
        conceal_s: seconds in which clients encoded the updates.
    """

    index: int
    layout: Layout | None = None
    total: Tensor | None = None
    weight: float = 0.0
    height: int | None = 0
    members: tuple[int, ...] = ()
    failures: tuple[ClientFailure, ...] = ()
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    up_bytes: int = 0
    steps: int = 0
    client_states: Mapping[int, Groups] = field(default_factory=dict)
    sum_of_squares: float = 0.0
    norms: Mapping[int, float] = field(default_factory=dict)
    sketches: Mapping[int, Tensor] = field(default_factory=dict)
    clipped: int = 0
    plain_bytes: int = 0
    spent: Mapping[int, Groups] = field(default_factory=dict)
    pending: Mapping[int, Tensors] = field(default_factory=dict)
    conceal_s: float = 0.0


@dataclass(frozen=True)
class ExchangeResult:
    """The replies of some clients in an exchange without updates.

    Args:
        replies: the reply of each client.
        pending: tensors of each client for its next exchange in this round.
        failures: clients that did not reply.
        seconds: seconds in which the clients made their replies.
    """

    replies: Mapping[int, bytes] = field(default_factory=dict)
    pending: Mapping[int, Tensors] = field(default_factory=dict)
    failures: tuple[ClientFailure, ...] = ()
    seconds: float = 0.0


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


Result = PartialAggregate | EvalResult | LossResult | ExchangeResult


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
