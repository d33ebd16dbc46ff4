"""The jobs of a round: the cohort alone decides their clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from fedlit.core.messages import Exchange, ExchangeJob, TrainJob
from fedlit.core.tensors import Groups

MIN_CHUNKS = 64
"""Clients of a cohort up to which each is a job."""

MAX_CHUNK_SIZE = 4
"""Largest number of clients in a job."""

T = TypeVar("T")


def make_train_jobs(
    round: int,
    cohort: Sequence[int],
    client_states: Mapping[int, Groups] | None = None,
    budgets: Mapping[int, int] | None = None,
    exchange: Exchange | None = None,
) -> list[TrainJob]:
    """Cut a cohort, in its order, into jobs.

    Up to 64 clients each job has one client. A cohort of up to 256 is cut into at most 64 equal parts, a larger one into parts
    of 4 clients. So the number of jobs grows with the cohort, and does not depend on the workers: see `join_jobs`.

    Args:
        round: the round, counted from 0.
        cohort: ids of the clients.
        client_states: state of each client that has one.
        budgets: step budget of each client that has one.
        exchange: the exchange that carries the updates; None if it is the only one.
    """
    return [
        TrainJob(
            round,
            index,
            part,
            _restrict(client_states or {}, part),
            _restrict(budgets or {}, part),
            exchange=None if exchange is None else exchange.of(part),
        )
        for index, part in enumerate(_chunks(cohort))
    ]


def make_exchange_jobs(round: int, exchange: Exchange) -> list[ExchangeJob]:
    """Cut the clients of an exchange without updates into jobs."""
    return [ExchangeJob(round, part, exchange.of(part)) for part in _chunks(tuple(exchange.requests))]


def _chunks(clients: Sequence[int]) -> list[tuple[int, ...]]:
    size = min(max(1, -(-len(clients) // MIN_CHUNKS)), MAX_CHUNK_SIZE)
    return [tuple(clients[start : start + size]) for start in range(0, len(clients), size)]


def _restrict(by_client: Mapping[int, T], clients: Sequence[int]) -> dict[int, T]:
    return {client: by_client[client] for client in clients if client in by_client}
