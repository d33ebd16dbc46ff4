"""Jobs of a round, which workers execute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedlit.core.tensors import Groups, Tensors


@dataclass(frozen=True)
class Exchange:
    """An exchange with the server; a secure sum or PowerSGD has several.

    Args:
        number: number of the exchange in the round, from 1.
        name: its name.
        requests: the server's message to each client.
        pending: tensors that each client returned in the exchange before, in the same round.
    """

    number: int
    name: str
    requests: Mapping[int, bytes] = field(default_factory=dict)
    pending: Mapping[int, Tensors] = field(default_factory=dict)

    def of(self, clients: Sequence[int]) -> Exchange:
        """The exchange of these clients alone."""
        requests = {client: self.requests[client] for client in clients if client in self.requests}
        pending = {client: self.pending[client] for client in clients if client in self.pending}
        return Exchange(self.number, self.name, requests, pending)


def join_exchanges(parts: Sequence[Exchange]) -> Exchange:
    """The exchange of the clients of all parts (at least one)."""
    requests = {client: request for part in parts for client, request in part.requests.items()}
    pending = {client: tensors for part in parts for client, tensors in part.pending.items()}
    return Exchange(parts[0].number, parts[0].name, requests, pending)


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
        exchange: the exchange that carries the updates; None if it is the only one.
        is_stack: True if the clients train together, as one stacked model.
    """

    round: int
    index: int
    clients: tuple[int, ...]
    client_states: Mapping[int, Groups] = field(default_factory=dict)
    budgets: Mapping[int, int] = field(default_factory=dict)
    attempt: int | None = None
    exchange: Exchange | None = None
    is_stack: bool = False

    @property
    def exchange_number(self) -> int:
        """Number of the exchange that carries the updates, counted from 1."""
        return 1 if self.exchange is None else self.exchange.number


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


@dataclass(frozen=True)
class ExchangeJob:
    """Clients that answer the server in an exchange without updates.

    Args:
        round: the round, counted from 0.
        clients: ids of the clients.
        exchange: the exchange.
    """

    round: int
    clients: tuple[int, ...]
    exchange: Exchange


Job = TrainJob | EvaluateJob | LossJob | ExchangeJob
