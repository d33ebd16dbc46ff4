"""Groups of clients, which the cohort alone fixes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fedlit.core.messages import Job, TrainJob
from fedlit.core.messages.jobs import join_exchanges

GROUP_SIZE = 25
"""Clients in a group. Larger groups have fewer Trainers, and smaller ones occupy more processes."""


def group_jobs(jobs: Iterable[Job], size: int) -> list[Job]:
    """Join the training jobs of a round to groups of clients.

    A group is one job: its clients train together, and their updates are added left to right. Other jobs stay.

    Args:
        jobs: the jobs of a phase, in order.
        size: largest number of clients in a group, >= 1; jobs that are larger are cut.
    """
    jobs = list(jobs)
    train_jobs = [job for job in jobs if isinstance(job, TrainJob)]
    if len(train_jobs) < len(jobs) or not jobs:
        return jobs
    clients = [client for job in train_jobs for client in job.clients]
    return [_join(train_jobs, index, part) for index, part in enumerate(_parts(clients, size))]


def _parts(clients: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Yield parts whose lengths differ by at most one."""
    count = -(-len(clients) // size)
    for part in range(count):
        start, stop = (len(clients) * edge // count for edge in (part, part + 1))
        yield tuple(clients[start:stop])


def _join(jobs: Sequence[TrainJob], index: int, clients: tuple[int, ...]) -> TrainJob:
    states = {client: state for job in jobs for client, state in job.client_states.items() if client in clients}
    budgets = {client: budget for job in jobs for client, budget in job.budgets.items() if client in clients}
    exchanges = [job.exchange for job in jobs if job.exchange is not None]
    exchange = join_exchanges(exchanges).of(clients) if exchanges else None
    return TrainJob(jobs[0].round, index, clients, states, budgets, exchange=exchange, is_stack=True)
