"""How long clients take, in simulated seconds, and so which of them a round waits for.

Everybody's speed is known before anybody trains, so who is too late is not trained at all, and nothing depends on where the
others are. Deadlines that drop stragglers or take the part that they did are those of Li et al., "Federated Optimization in
Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127; asking more clients than are needed is from Bonawitz et
al., "Towards Federated Learning at Scale: System Design", MLSys 2019, https://arxiv.org/abs/1902.01046.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from fedlit.core.errors import ConfigError, raise_errors, require, require_choice, require_positive
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import ClientFailure
from fedlit.core.streams import Purpose, stream
from fedlit.simulation.speeds import DeviceSpeed, read_table

MAX_TIMED_CLIENTS = 1000
"""Clients whose times are looked at before round 1; of more, so many evenly spaced ones."""

STEP_TOLERANCE = 1e-9
"""Part of a step by which a client may be late, for sums of seconds are rounded."""


class ClientTiming(NamedTuple):
    """What a client has to do in a round, and what it comes to.

    Args:
        planned: optimizer steps of all its local work.
        done: those of them that it does before the deadline; -1 if not even its transfers fit.
        needed_s: seconds that all of it takes.
        spent_s: seconds until what it did has arrived.
    """

    planned: int
    done: int
    needed_s: float
    spent_s: float


@dataclass(frozen=True, kw_only=True)
class RoundWork:
    """The work of some clients in a round, as far as it takes time.

    Args:
        clients: their ids.
        steps: planned optimizer steps of each, shape (clients,).
        down_bytes: bytes that each is sent.
        up_bytes: bytes that each sends.
        seed: the experiment's.
    """

    clients: Sequence[int]
    steps: np.ndarray
    down_bytes: int
    up_bytes: int
    seed: int


class TimedCohort(NamedTuple):
    """A cohort with its simulated times.

    Args:
        clients: those that train, in the cohort's order.
        budgets: optimizer steps after which a client stops, of those with fewer than planned.
        failures: clients that the server does not wait for.
        metrics: figures for the round's record.
    """

    clients: tuple[int, ...]
    budgets: dict[int, int]
    failures: tuple[ClientFailure, ...]
    metrics: dict[str, float]


@dataclass(frozen=True)
class VirtualClock:
    """A client takes (bytes down) / down_bytes_s + steps * step_s + (bytes up) / up_bytes_s seconds in a round.

    Steps are those that the schedule plans for its samples; what ends a fit sooner (a callback, `trainer.max_time`) is not
    foreseen, a second fit in the same round is not counted, and under manual optimisation a step is a batch.

    Args:
        step_s: median seconds of one local step, > 0.
        up_bytes_s, down_bytes_s: median bandwidths in bytes a second, > 0.
        step_sigma: standard deviation over clients of the logarithm of a step's seconds, in [0, 10]; 0 makes all alike.
        bandwidth_sigma: the same of bandwidths; a client's two have one factor.
        table: a CSV file with the columns client, step_s, up_bytes_s, down_bytes_s and a row for each client, in place of
            what is drawn; None to draw.
        deadline_s: seconds for which a round waits, > 0; None for all that it takes.
        late: `drop` leaves a client out that would miss the deadline; `cut` takes the steps that it does in time, and leaves
            it out if there are none.
    """

    step_s: float | None = None
    up_bytes_s: float | None = None
    down_bytes_s: float | None = None
    step_sigma: float = 0.0
    bandwidth_sigma: float = 0.0
    table: str | None = None
    deadline_s: float | None = None
    late: Literal["drop", "cut"] = "drop"

    def __post_init__(self) -> None:
        raise_errors(
            *(self._odd_median(key, getattr(self, key)) for key in DeviceSpeed._fields),
            *(self._odd_sigma(key, getattr(self, key)) for key in ("step_sigma", "bandwidth_sigma")),
            require_choice("late", self.late, ("drop", "cut")),
            ConfigError("late", "cut", "needs a deadline to cut at", "clock.deadline_s=SECONDS")
            if self.late == "cut" and self.deadline_s is None
            else None,
            None
            if self.deadline_s is None
            else require_positive("deadline_s", self.deadline_s, "null waits for everybody"),
            self._unreadable(),
        )

    def _odd_median(self, key: str, given: float | None) -> ConfigError | None:
        if self.table is not None:
            return require(given is None, key, given, "is in clock.table for each client", "leave one of the two out")
        if given is None:
            return ConfigError(
                key, given, "must be a number above 0", "clock=lognormal has one, clock=table needs none"
            )
        return require_positive(key, given)

    def _odd_sigma(self, key: str, given: float) -> ConfigError | None:
        if self.table is not None and given:
            return ConfigError(key, given, "is for speeds that are drawn", "leave clock.table out, or this")
        return require(0 <= given <= 10, key, given, "must be from 0 to 10", "0 makes all clients alike")

    def _unreadable(self) -> ConfigError | None:
        """What is wrong with the table, which is read now, to be told with the rest."""
        if self.table is not None:
            try:
                _ = self._rows
            except ConfigError as mistake:
                return mistake
        return None

    @cached_property
    def _rows(self) -> dict[int, DeviceSpeed]:
        return read_table(self.table or "")

    def speed(self, seed: int, client: int) -> DeviceSpeed:
        """How fast a client is, in every round and with every algorithm.

        Raises:
            Mistake: if it is not in the table.
        """
        if self.table is not None:
            if client not in self._rows:
                raise ConfigError("clock.table", self.table, f"has no row for client {client}", "it needs one for each")
            return self._rows[client]
        assert self.step_s is not None
        assert self.up_bytes_s is not None
        assert self.down_bytes_s is not None
        step, link = np.exp(
            stream(seed, Purpose.CLOCK, client=client).standard_normal(2) * (self.step_sigma, self.bandwidth_sigma)
        ).tolist()
        return DeviceSpeed(self.step_s * step, self.up_bytes_s * link, self.down_bytes_s * link)

    def time_cohort(self, work: RoundWork, first: int | None = None) -> TimedCohort:
        """Time a round's cohort, and choose the clients that the server waits for.

        Args:
            work: the cohort, in its order, and its work.
            first: number of clients that are waited for, the fastest ones, ties in the cohort's order; None for all.

        Raises:
            Mistake: if a client is not in the table.
        """
        stints = dict(zip(work.clients, self._stints(work), strict=True))
        there = {client: stint for client, stint in stints.items() if not self._missed(stint)}
        soonest = set(sorted(there, key=lambda client: there[client].spent_s)[:first])
        asked = tuple(client for client in work.clients if client in soonest)
        budgets = {client: there[client].done for client in asked if there[client].done < there[client].planned}
        failures = tuple(
            ClientFailure(client, "surplus", f"came after the first {first}")
            if client in there
            else ClientFailure(client, "deadline", self._told(stint))
            for client, stint in stints.items()
            if client not in soonest
        )
        wanted = len(work.clients) if first is None else min(first, len(work.clients))
        waited = max((there[client].spent_s for client in asked), default=0.0)
        if len(asked) < wanted and self.deadline_s is not None:  # it had to be waited for to know
            waited = self.deadline_s
        return TimedCohort(asked, budgets, failures, {"time/simulated_s": waited, "clients/cut": len(budgets)})

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors: a client without a row in the table, and local training that cannot be cut short.

        Lightning counts the steps of all optimizers under manual optimization, and compares them after a batch only.
        """
        if self.late == "cut" and facts.manual_optimization:
            why = f"cannot cut {facts.module}, which optimises by hand"
            yield ConfigError("clock.late", "cut", why, "clock.late=drop")
        if self.table is None:
            return
        missing = [client for client in range(len(facts.sizes)) if client not in self._rows]
        if missing:
            which = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            yield ConfigError(
                "clock.table", self.table, f"has no row for client {which}", "clients are numbered from 0"
            )

    def check_deadline(
        self, work: RoundWork, clients: int, rounds: int, sampled: int, quorum: int
    ) -> Iterator[ConfigError]:
        """Yield an error or a warning if too few clients meet the deadline in many rounds.

        Args:
            work: of the clients that `spaced` chose.
            clients: clients in the federation.
            rounds: rounds of the run.
            sampled: clients that are sampled for a round.
            quorum: updates that a round needs.
        """
        if self.deadline_s is None:
            return
        stints, looked = list(self._stints(work)), len(work.clients)
        late = sum(map(self._missed, stints))
        there = round(clients * (1 - late / looked))
        lost = rounds * prob_below_quorum(clients, there, sampled, quorum)
        marks = np.quantile([stint.needed_s for stint in stints], [0, 0.5, 1]).tolist()
        seconds = "a client's round takes min {:.4g}, median {:.4g}, max {:.4g} s".format(*marks)
        if lost >= 0.5:
            why = f"is too short for {late / looked:.0%} of the clients: {seconds}"
            all_lost = late == looked == clients
            why += "; every round would be lost" if all_lost else f"; about {lost:.0f} rounds would be lost"
            yield ConfigError("clock.deadline_s", self.deadline_s, why, "take more", warning=not all_lost)

    def _stints(self, work: RoundWork) -> Iterator[ClientTiming]:
        for client, planned in zip(work.clients, work.steps.tolist(), strict=True):
            speed = self.speed(work.seed, client)
            transfers, done = work.down_bytes / speed.down_bytes_s + work.up_bytes / speed.up_bytes_s, planned
            if self.deadline_s is not None:
                room = (self.deadline_s - transfers) / speed.step_s + STEP_TOLERANCE
                done = -1 if room < 0 else int(min(room, planned))
            yield ClientTiming(planned, done, transfers + planned * speed.step_s, transfers + done * speed.step_s)

    def _missed(self, stint: ClientTiming) -> bool:
        return stint.done < stint.planned and (self.late == "drop" or stint.done < 1)

    def _told(self, stint: ClientTiming) -> str:
        return f"would have taken {stint.needed_s:.6g} s, and clock.deadline_s={self.deadline_s:g}"


def evenly_spaced_clients(clients: int) -> list[int]:
    """Ids of at most MOST_FORESEEN clients, evenly spaced."""
    return np.unique(np.linspace(0, clients - 1, min(clients, MAX_TIMED_CLIENTS)).astype(np.int64)).tolist()


def prob_below_quorum(clients: int, there: int, cohort: int, quorum: int) -> float:
    """Probability that less than `quorum` of a cohort, drawn without replacement, are of the `there` clients in time."""
    late, total = clients - there, _log_choices(clients, cohort)
    lucky = range(max(0, cohort - late), min(quorum, there + 1, cohort + 1))
    return sum(math.exp(_log_choices(there, n) + _log_choices(late, cohort - n) - total) for n in lucky)


def _log_choices(of: int, some: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)
