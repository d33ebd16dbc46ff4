"""The virtual clock: simulated seconds of clients.

The seconds determine the clients that the server waits for. The clock knows the speed of every client before a round. So a
straggler that misses the round is not trained at all, and nothing depends on the progress of other clients.

Deadlines that drop stragglers or accept their partial work: Li et al., "Federated Optimization in Heterogeneous Networks",
MLSys 2020, https://arxiv.org/abs/1812.06127. Selecting more clients than needed: Bonawitz et al., "Towards Federated Learning
at Scale: System Design", MLSys 2019, https://arxiv.org/abs/1902.01046.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, raise_errors, require, require_choice, require_positive
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import ClientFailure
from fedlit.core.streams import Purpose, stream
from fedlit.simulation.speeds import DeviceSpeed, read_table
from fedlit.simulation.timing import ClientTiming, RoundWork, TimedCohort

MAX_TIMED_CLIENTS = 1000
"""Clients whose times are computed before round 1; in a larger federation, evenly spaced ones."""

STEP_TOLERANCE = 1e-9
"""Fraction of a step by which a client may be late, because sums of seconds are rounded."""


@dataclass(frozen=True)
class VirtualClock:
    """The simulated seconds of each client in a round.

    A client takes (bytes down) / down_bytes_s + steps * step_s + (bytes up) / up_bytes_s seconds in a round. The steps are
    those that the schedule plans for the client's samples. The clock does not foresee an earlier end of local training (a
    callback, `trainer.max_time`). It does not count a second fit in the same round. Under manual optimization a step is a
    batch.

    Args:
        step_s: median seconds of one local step, > 0.
        up_bytes_s: median bandwidth from a client to the server, in bytes per second, > 0.
        down_bytes_s: median bandwidth from the server to a client, in bytes per second, > 0.
        step_sigma: standard deviation over clients of the logarithm of step_s, in [0, 10]; 0 makes all clients alike.
        bandwidth_sigma: the same for the bandwidths; the two bandwidths of a client share one factor.
        table: a CSV file with the columns client, step_s, up_bytes_s, down_bytes_s and one row for each client; None to draw
            the speeds.
        deadline_s: seconds for which a round waits, > 0; None to wait for all clients.
        late: `drop` leaves out a client that would miss the deadline; `cut` accepts the steps that it does in time, and
            leaves it out if there are none.
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
        deadline = self.deadline_s
        cannot_cut = self.late == "cut" and deadline is None
        raise_errors(
            *(self._median_error(key, getattr(self, key)) for key in DeviceSpeed._fields),
            *(self._sigma_error(key, getattr(self, key)) for key in ("step_sigma", "bandwidth_sigma")),
            require_choice("late", self.late, ("drop", "cut")),
            require(not cannot_cut, "late", "cut", "needs a deadline", "set clock.deadline_s=SECONDS"),
            None if deadline is None else require_positive("deadline_s", deadline, "null waits for all clients"),
            self._table_error(),
        )

    def _median_error(self, key: str, value: float | None) -> ConfigError | None:
        if self.table is not None:
            return require(
                value is None, key, value, "is set by clock.table for each client", f"leave out {key} or table"
            )
        if value is None:
            return ConfigError(key, value, "must be greater than 0", "clock=lognormal has one, clock=table needs none")
        return require_positive(key, value)

    def _sigma_error(self, key: str, value: float) -> ConfigError | None:
        if self.table is not None and value:
            return ConfigError(key, value, "applies only to drawn speeds", f"leave out {key} or table")
        return require(0 <= value <= 10, key, value, "must be from 0 to 10", "0 makes all clients alike")

    def _table_error(self) -> ConfigError | None:
        """Read the table now, to report its error with the other errors."""
        if self.table is not None:
            try:
                _ = self._rows
            except ConfigError as error:
                return error
        return None

    @cached_property
    def _rows(self) -> dict[int, DeviceSpeed]:
        return read_table(self.table or "")

    def speed(self, seed: int, client: int) -> DeviceSpeed:
        """Return the speed of a client.

        The speed is the same in every round and with every algorithm.

        Raises:
            ConfigError: if the client is not in the table.
        """
        if self.table is not None:
            if client not in self._rows:
                raise ConfigError(
                    "clock.table", self.table, f"has no row for client {client}", "add one row per client"
                )
            return self._rows[client]
        assert self.step_s is not None
        assert self.up_bytes_s is not None
        assert self.down_bytes_s is not None
        step, link = np.exp(
            stream(seed, Purpose.CLOCK, client=client).standard_normal(2) * (self.step_sigma, self.bandwidth_sigma)
        ).tolist()
        return DeviceSpeed(self.step_s * step, self.up_bytes_s * link, self.down_bytes_s * link)

    def time_cohort(self, work: RoundWork, num_fastest: int | None = None) -> TimedCohort:
        """Time a cohort, and choose the clients that the server waits for.

        Args:
            work: the round's cohort, in its order, and its work.
            num_fastest: number of clients that the server waits for: the fastest, ties in the cohort's order; None for all.

        Raises:
            ConfigError: if a client is not in the table.
        """
        timings = dict(zip(work.clients, self._timings(work), strict=True))
        in_time = {client: timing for client, timing in timings.items() if not self._is_late(timing)}
        fastest = set(sorted(in_time, key=lambda client: in_time[client].spent_s)[:num_fastest])
        clients = tuple(client for client in work.clients if client in fastest)
        budgets = {client: in_time[client].done for client in clients if in_time[client].done < in_time[client].planned}
        failures = tuple(
            ClientFailure(client, "surplus", f"came after the first {num_fastest} clients")
            if client in in_time
            else ClientFailure(client, "deadline", self._deadline_reason(timing))
            for client, timing in timings.items()
            if client not in fastest
        )
        expected = len(work.clients) if num_fastest is None else min(num_fastest, len(work.clients))
        duration = max((in_time[client].spent_s for client in clients), default=0.0)
        if (
            len(clients) < expected and self.deadline_s is not None
        ):  # the server waits until the deadline for the others
            duration = self.deadline_s
        return TimedCohort(clients, budgets, failures, {"time/simulated_s": duration, "clients/cut": len(budgets)})

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors if the clock does not fit the federation.

        The errors are a client without a row in the table, and local training that cannot stop early. Lightning counts the
        steps of all optimizers under manual optimization, and compares them after a batch only.
        """
        if self.late == "cut" and facts.manual_optimization:
            problem = f"cannot end the local training of {facts.module} early: it uses manual optimization"
            yield ConfigError("clock.late", "cut", problem, "set clock.late=drop")
        if self.table is None:
            return
        missing = [client for client in range(len(facts.sizes)) if client not in self._rows]
        if missing:
            names = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            problem = f"has no row for client {names}"
            yield ConfigError("clock.table", self.table, problem, "add one row per client; client numbers start at 0")

    def check_deadline(
        self, work: RoundWork, clients: int, rounds: int, sampled: int, quorum: int
    ) -> Iterator[ConfigError]:
        """Yield an error or a warning if the deadline loses many rounds.

        In such rounds too few clients meet the deadline.

        Args:
            work: work of the clients that `evenly_spaced_clients` chose.
            clients: number of clients in the federation.
            rounds: number of rounds of the run.
            sampled: number of clients that are sampled for a round.
            quorum: number of updates that a round needs.
        """
        if self.deadline_s is None:
            return
        timings, num_timed = list(self._timings(work)), len(work.clients)
        late = sum(map(self._is_late, timings))
        in_time = round(clients * (1 - late / num_timed))
        lost = rounds * prob_below_quorum(clients, in_time, sampled, quorum)
        if lost >= 0.5:
            quantiles = np.quantile([timing.needed_s for timing in timings], [0, 0.5, 1]).tolist()
            seconds = "a client's round takes min {:.4g}, median {:.4g}, max {:.4g} s".format(*quantiles)
            count = max(1, round(lost))
            all_lost = late == num_timed == clients
            result = "every round" if all_lost else f"about {count} round{'s' * (count > 1)}"
            problem = f"is too short for {late / num_timed:.0%} of the clients: {seconds}; {result} would be lost"
            yield ConfigError("clock.deadline_s", self.deadline_s, problem, "increase it", warning=not all_lost)

    def _timings(self, work: RoundWork) -> Iterator[ClientTiming]:
        for client, planned in zip(work.clients, work.steps.tolist(), strict=True):
            speed = self.speed(work.seed, client)
            transfers, done = work.down_bytes / speed.down_bytes_s + work.up_bytes / speed.up_bytes_s, planned
            if self.deadline_s is not None:
                steps = (self.deadline_s - transfers) / speed.step_s + STEP_TOLERANCE
                done = -1 if steps < 0 else int(min(steps, planned))
            yield ClientTiming(planned, done, transfers + planned * speed.step_s, transfers + done * speed.step_s)

    def _is_late(self, timing: ClientTiming) -> bool:
        return timing.done < timing.planned and (self.late == "drop" or timing.done < 1)

    def _deadline_reason(self, timing: ClientTiming) -> str:
        return f"would have taken {timing.needed_s:.6g} s, more than clock.deadline_s={self.deadline_s:g}"


def evenly_spaced_clients(clients: int) -> list[int]:
    """Return the ids of at most `MAX_TIMED_CLIENTS` clients, evenly spaced."""
    return np.unique(np.linspace(0, clients - 1, min(clients, MAX_TIMED_CLIENTS)).astype(np.int64)).tolist()


def prob_below_quorum(clients: int, in_time: int, cohort: int, quorum: int) -> float:
    """Return the probability that fewer than `quorum` cohort clients are in time.

    Args:
        clients: number of clients in the federation.
        in_time: number of them that meet the deadline.
        cohort: size of the cohort, which is drawn without replacement.
        quorum: number of updates that a round needs.
    """
    late, total = clients - in_time, _log_choices(clients, cohort)
    counts = range(max(0, cohort - late), min(quorum, in_time + 1, cohort + 1))
    return sum(math.exp(_log_choices(in_time, n) + _log_choices(late, cohort - n) - total) for n in counts)


def _log_choices(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
