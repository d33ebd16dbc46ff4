"""Plans of faults, and the policy for clients that fail.

A plan strikes a client in a round by a draw that is keyed by (seed, round, client). So the same clients fail under every
executor, with every algorithm, and when the round runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, LostRounds, raise_errors, require, require_at_least, require_choice
from fedlit.core.facts import FederationFacts
from fedlit.core.streams import Purpose, stream
from fedlit.simulation.client_faults import Fault


@dataclass(frozen=True)
class FaultPlan:
    """A fault that strikes some clients in some rounds.

    Args:
        fault: the fault.
        probability: probability that the fault strikes a client in a round, in [0, 1].
        clients: clients that the fault may strike; None for all.
        rounds: rounds in which the fault may strike, counted from 1; None for all.
    """

    fault: Fault
    probability: float
    clients: Sequence[int] | None = None
    rounds: Sequence[int] | None = None

    def __post_init__(self) -> None:
        fault = type(self.fault).__name__
        raise_errors(
            require(
                isinstance(self.fault, Fault), "fault", fault, "is not a Fault", "subclass fedlit.simulation.Fault"
            ),
            require(0 <= self.probability <= 1, "probability", self.probability, "must be from 0 to 1"),
        )

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors if the fault can never strike."""
        all_clients, rounds = range(len(facts.sizes)), self.rounds or ()
        if self.probability == 0:
            yield ConfigError("probability", 0, "strikes no client", "increase it, or remove the plan", warning=True)
        if self.clients is not None and not (self.clients and all(client in all_clients for client in self.clients)):
            problem = f"must be clients from 0 to {len(all_clients) - 1}"
            yield ConfigError("clients", list(self.clients), problem, "null is all clients")
        possible = [round for round in rounds if round in range(1, facts.rounds + 1)]
        if self.rounds is not None and (not possible or any(round not in range(1, sys.maxsize) for round in rounds)):
            problem = f"must be rounds from 1 to {facts.rounds}"
            yield ConfigError("rounds", list(rounds), problem, "null is all rounds")
        elif len(possible) < len(rounds):
            problem = f"has rounds after the last round, {facts.rounds}"
            yield ConfigError("rounds", list(rounds), problem, "run more rounds, or remove these", warning=True)
        yield from (error.prefixed("fault") for error in self.fault.check(facts))

    def strikes(self, round: int, client: int, generator: np.random.Generator) -> bool:
        """Return True if the fault strikes a client in a round.

        The method draws one number from the generator.

        Args:
            round: counted from 0.
            client: id of the client.
            generator: see `FailurePolicy.active_faults`.
        """
        is_drawn = generator.random() < self.probability
        is_planned_round = self.rounds is None or round + 1 in self.rounds
        return is_drawn and is_planned_round and (self.clients is None or client in self.clients)


@dataclass(frozen=True)
class FailurePolicy:
    """The policy for clients that fail, and the planned faults.

    Args:
        on_error: `drop` leaves the client out, `retry` first runs it again with the same seeds, `fail` ends the run.
        retries: retries of a client, >= 1.
        max_lost_rounds: consecutive lost rounds that end the run, >= 1; a round without a cohort does not count.
        max_norm: Euclidean norm above which an update is refused, > 0; None for any norm.
        plans: planned faults of clients.
        names: names of the plans in the configuration; empty for their numbers.
    """

    on_error: Literal["drop", "retry", "fail"] = "drop"
    retries: int = 1
    max_lost_rounds: int = 3
    max_norm: float | None = None
    plans: Sequence[FaultPlan] = ()
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        is_valid_norm = self.max_norm is None or self.max_norm > 0
        raise_errors(
            require_choice("on_error", self.on_error, ("drop", "retry", "fail")),
            require_at_least("retries", self.retries),
            require_at_least("max_lost_rounds", self.max_lost_rounds),
            require(is_valid_norm, "max_norm", self.max_norm, "must be greater than 0, or null"),
            *(self._plan_error(name, plan) for name, plan in self._named_plans()),
        )

    def _named_plans(self) -> Iterator[tuple[str, FaultPlan]]:
        return zip(self.names or map(str, range(len(self.plans))), self.plans, strict=True)

    @staticmethod
    def _plan_error(name: str, plan: object) -> ConfigError | None:
        hint = "use a fedlit.simulation.FaultPlan, whose fault is a subclass of fedlit.simulation.Fault"
        return require(isinstance(plan, FaultPlan), f"plans.{name}", type(plan).__name__, "is not a FaultPlan", hint)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors in plans that can never strike."""
        for name, plan in self._named_plans():
            yield from (error.prefixed(f"faults.plans.{name}") for error in plan.check(facts))

    @property
    def max_retries(self) -> int:
        """Number of retries after a failure; 0 unless `on_error` is `retry`."""
        return self.retries if self.on_error == "retry" else 0

    def raise_if_too_many_lost(self, lost: int) -> None:
        """Raise LostRounds if too many consecutive rounds were lost.

        Args:
            lost: number of consecutive lost rounds.
        """
        if lost >= self.max_lost_rounds:
            raise LostRounds(
                f"{lost} rounds in a row were lost; the limit is faults.max_lost_rounds={self.max_lost_rounds}"
            )

    def carried_over(self, lost: int) -> int:
        """Return the consecutive lost rounds that count on resume.

        The count starts again at 0 after a run that ended because of too many lost rounds.
        """
        return lost % self.max_lost_rounds

    def act_at_exchange(self, seed: int, round: int, client: int, number: int) -> None:
        """Let a client's faults act at an exchange without updates.

        Raises:
            Exception: if a fault makes the client fail.
        """
        for fault, _ in self.active_faults(seed, round, client):
            fault.at_exchange(number)

    def active_faults(self, seed: int, round: int, client: int) -> list[tuple[Fault, np.random.Generator]]:
        """Return the faults that strike a client in a round.

        Each fault comes with its random generator.

        Args:
            seed: the seed of the experiment.
            round: counted from 0.
            client: id of the client.
        """
        keyed = [(plan, stream(seed, Purpose.FAULTS, round, client, number)) for number, plan in enumerate(self.plans)]
        return [(plan.fault, generator) for plan, generator in keyed if plan.strikes(round, client, generator)]


def begin_faults(faults: Sequence[tuple[Fault, np.random.Generator]], number: int, attempt: int | None) -> None:
    """Let a client's faults act before it trains.

    Args:
        faults: see `FailurePolicy.active_faults`.
        number: number of the exchange in the round.
        attempt: see `Fault.before`.

    Raises:
        Exception: if a fault makes the client fail.
    """
    for fault, _ in faults:
        fault.at_exchange(number)
        fault.before(attempt)
