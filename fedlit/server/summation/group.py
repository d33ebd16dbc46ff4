"""A group of clients in a round of several exchanges.

The loop carries messages, sealed secrets and the sum of concealed updates. It sees no update.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fedlit.aggregation.aggregator import merge
from fedlit.aggregation.jobs import make_exchange_jobs, make_train_jobs
from fedlit.aggregation.secure.protocol.setting import LostGroup
from fedlit.aggregation.secure.secure_stage import GroupSession
from fedlit.core.messages import ClientFailure, Exchange, ExchangeResult, PartialAggregate
from fedlit.core.tensors import Tensors
from fedlit.server.summation.round import SecureRound


def run_groups(round: SecureRound) -> Iterator[PartialAggregate]:
    """Yield the sum of each group, as integers in the clear."""
    for index, group in enumerate(round.stage.groups(round.plan.cohort)):
        yield GroupRound(round, index, group).run()


class GroupRound:
    """The exchanges with one group of clients.

    Args:
        round: the parts of the round.
        index: number of the group in the round.
        group: its clients.
    """

    def __init__(self, round: SecureRound, index: int, group: Sequence[int]) -> None:
        self._round, self._stage, self._index, self._group = round, round.stage, index, tuple(group)
        self._pending: dict[int, Tensors] = {}
        self._failures: list[ClientFailure] = []
        self._up_bytes = 0

    def run(self) -> PartialAggregate:
        """Run all exchanges.

        Returns:
            The group's sum in the clear; that of a lost group is empty.
        """
        stage, round = self._stage, self._round
        partial, names = PartialAggregate(index=self._index), stage.exchanges
        try:
            session = stage.begin(
                self._index, self._group, round=round.state.round, seed=round.seed, layout=round.layout
            )
            for name in names:
                exchange = self._open(session, name, names.index(name) + 1)
                if name == stage.carrier:
                    partial = self._train(session, exchange)
                else:
                    self._run_exchange(session, exchange, is_final=name in stage.after)
                with self._timed(name):
                    session.close()
            with self._timed(names[-1]):
                total = session.finish()
        except LostGroup as error:
            return self._lost(partial, str(error))
        return replace(partial, total=total, **self._common(partial))

    def _open(self, session: GroupSession, name: str, number: int) -> Exchange:
        """The requests of the next exchange."""
        with self._timed(name):
            requests = session.requests()
        self._count(name, "down_bytes", sum(map(len, requests.values())))
        return Exchange(number, name, requests, self._pending)

    def _run_exchange(self, session: GroupSession, exchange: Exchange, is_final: bool) -> None:
        """Run one exchange without updates.

        Args:
            session: the server's half.
            exchange: the exchange.
            is_final: whether the updates are in the sum already; a client that is silent is then no failure.
        """
        name, failures = exchange.name, []
        for result in self._round.execute(make_exchange_jobs(self._round.state.round, exchange), self._round.state):
            assert isinstance(result, ExchangeResult)
            self._pending |= result.pending
            self._round.figures[f"time/{name}_clients_s"] += result.seconds
            failures += result.failures
            for client, reply in result.replies.items():
                self._count(name, "up_bytes", len(reply))
                self._up_bytes += len(reply)
                with self._timed(name):
                    failures += _receive(session, client, reply)
        if is_final:
            self._count(name, "silent", len(failures))
        else:
            self._failures += failures

    def _train(self, session: GroupSession, exchange: Exchange) -> PartialAggregate:
        """Run the exchange that carries the updates.

        Returns:
            The partial aggregate of all clients, whose sum the session has.
        """
        name, round, plan = exchange.name, self._round, self._round.plan
        clients = [client for client in plan.clients if client in exchange.requests]
        jobs = make_train_jobs(round.state.round, clients, round.clients.read(clients), plan.budgets, exchange)
        whole = PartialAggregate(index=self._index)
        for partial in round.execute(jobs, round.state):
            assert isinstance(partial, PartialAggregate)
            with self._timed(name):
                for client in partial.members:
                    session.receive(client, b"")
                if partial.total is not None:
                    session.add(partial.total)
            whole = merge(self._stage.aggregator, [whole, replace(partial, total=None)])
        self._pending |= whole.pending
        self._count(name, "up_bytes", whole.up_bytes)
        round.figures[f"time/{name}_clients_s"] += whole.conceal_s
        return replace(whole, pending={})

    def _lost(self, partial: PartialAggregate, reason: str) -> PartialAggregate:
        """The empty sum of a lost group, whose clients have all failed."""
        self._round.reasons.append(reason)
        self._round.figures["secure/lost_groups"] += 1
        known = {failure.client for failure in (*self._failures, *partial.failures, *self._round.plan.failures)}
        self._failures += [ClientFailure(client, "aborted", reason) for client in self._group if client not in known]
        kept = {"plain_bytes": partial.plain_bytes, "steps": partial.steps, "spent": partial.spent}
        return PartialAggregate(**kept, **self._common(partial))

    def _common(self, partial: PartialAggregate) -> dict[str, Any]:
        """Fields that a sum and a lost group have.

        The bytes include those of exchanges that are not executed.
        """
        up_bytes = partial.up_bytes + self._up_bytes
        if self._stage.is_simulated:
            up, down = (len(self._group) * nbytes for nbytes in self._predict_nbytes())
            self._count("predicted", "down_bytes", down)
            self._count("predicted", "up_bytes", up)
            up_bytes += up
        return {"index": self._index, "failures": (*self._failures, *partial.failures), "up_bytes": up_bytes}

    def _predict_nbytes(self) -> tuple[int, int]:
        """Bytes of one client's exchanges besides the update: up, down."""
        return self._stage.exchange_nbytes(len(self._group), self._round.layout)

    def _count(self, exchange: str, figure: str, value: float) -> None:
        self._round.figures[f"secure/{exchange}_{figure}"] += int(value)

    @contextmanager
    def _timed(self, exchange: str) -> Iterator[None]:
        """Count the seconds of the server."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._round.figures[f"time/{exchange}_server_s"] += time.perf_counter() - start


def _receive(session: GroupSession, client: int, reply: bytes) -> list[ClientFailure]:
    """Give a reply to the session; return the failure if refused."""
    try:
        session.receive(client, reply)
    except ValueError as error:
        return [ClientFailure(client, "exception", str(error))]
    return []
