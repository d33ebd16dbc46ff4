"""What goes wrong on purpose, and what is done about what goes wrong.

A plan strikes a client in a round by a draw of its own, keyed by (seed, round, client), so that the same clients fail under
every executor, with every algorithm, and when the round is run again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from fedlit.core.errors import ConfigError, LostRounds, raise_errors, require, require_at_least, require_choice
from fedlit.core.facts import FederationFacts, check_part
from fedlit.core.messages import Update
from fedlit.core.streams import Purpose, stream
from fedlit.simulation.corruption import CORRUPTIONS, is_corruptible


class PlannedFailure(Exception):
    """Raised by a fault that takes a client out of a round."""


class Fault(Protocol):
    """What can happen to a client."""

    def before(self, attempt: int | None) -> None:
        """Strikes before the client trains, in its first attempt (0) in a worker process or a later one; None where there is
        no worker process."""
        ...

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """What becomes of the update."""
        ...


@dataclass(frozen=True)
class FaultPlan:
    """A fault that strikes some clients in some rounds.

    Args:
        fault: what happens.
        probability: of striking a client in a round, among those that it may strike, in [0, 1].
        clients: whom it may strike; None for all.
        rounds: when it may strike, counted from 1; None for always.
    """

    fault: Fault
    probability: float
    clients: Sequence[int] | None = None
    rounds: Sequence[int] | None = None

    def __post_init__(self) -> None:
        raise_errors(require(0 <= self.probability <= 1, "probability", self.probability, "must be from 0 to 1"))

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """What keeps it from ever striking."""
        there, rounds = range(len(facts.sizes)), self.rounds or ()
        if self.probability == 0:
            yield ConfigError("probability", 0, "strikes nobody", "take more, or leave the plan out", warning=True)
        if self.clients is not None and not (self.clients and all(client in there for client in self.clients)):
            why = f"must be of the clients 0 to {len(there) - 1}"
            yield ConfigError("clients", list(self.clients), why, "null is all of them")
        due = [round for round in rounds if round in range(1, facts.rounds + 1)]
        if self.rounds is not None and (not due or any(round not in range(1, sys.maxsize) for round in rounds)):
            why = f"must be of the rounds 1 to {facts.rounds}"
            yield ConfigError("rounds", list(rounds), why, "null is all of them")
        elif len(due) < len(rounds):
            why = f"are partly after the last of the {facts.rounds} rounds"
            yield ConfigError("rounds", list(rounds), why, "take more rounds, or leave those out", warning=True)
        yield from (mistake.prefixed("fault") for mistake in check_part(self.fault, facts))

    def strikes(self, round: int, client: int, generator: np.random.Generator) -> bool:
        """Whether it strikes a client in a round, counted from 0; takes one number from the generator."""
        drawn = generator.random() < self.probability
        within = self.rounds is None or round + 1 in self.rounds
        return drawn and within and (self.clients is None or client in self.clients)


@dataclass(frozen=True)
class FailurePolicy:
    """What is done about clients that fail, and which are made to.

    Args:
        on_error: `drop` leaves the client out, `retry` runs it again with the same seeds first, `fail` ends the run.
        retries: how often, >= 1.
        max_lost_rounds: so many lost rounds in a row, of those that ask somebody, end the run; >= 1.
        max_norm: Euclidean norm above which an update is not taken, > 0; None for any.
        plans: faults of clients.
        names: what the plans are called in the configuration; empty for their numbers.
    """

    on_error: Literal["drop", "retry", "fail"] = "drop"
    retries: int = 1
    max_lost_rounds: int = 3
    max_norm: float | None = None
    plans: Sequence[FaultPlan] = ()
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        any_norm = self.max_norm is None or self.max_norm > 0
        raise_errors(
            require_choice("on_error", self.on_error, ("drop", "retry", "fail")),
            require_at_least("retries", self.retries),
            require_at_least("max_lost_rounds", self.max_lost_rounds),
            require(any_norm, "max_norm", self.max_norm, "must be a number above 0, or null"),
        )

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Plans that cannot strike."""
        for name, plan in zip(self.names or map(str, range(len(self.plans))), self.plans, strict=True):
            yield from (mistake.prefixed(f"faults.plans.{name}") for mistake in check_part(plan, facts))

    def raise_if_too_many_lost(self, lost: int) -> None:
        """Raises LostRounds if so many rounds in a row were lost that the run is to end."""
        if lost >= self.max_lost_rounds:
            raise LostRounds(f"{lost} rounds in a row were lost, and faults.max_lost_rounds={self.max_lost_rounds}")

    def carried_over(self, lost: int) -> int:
        """Those of the rounds lost in a row that count when a run is gone on with: after an end by too many, none."""
        return lost % self.max_lost_rounds

    def active_faults(self, seed: int, round: int, client: int) -> list[tuple[Fault, np.random.Generator]]:
        """The faults that strike a client in a round, counted from 0, each with a generator for what it does."""
        drawn = [(plan, stream(seed, Purpose.FAULTS, round, client, number)) for number, plan in enumerate(self.plans)]
        return [(plan.fault, generator) for plan, generator in drawn if plan.strikes(round, client, generator)]


class _Silent:
    """What a fault does where it does not strike: nothing."""

    def before(self, attempt: int | None) -> None:
        """Lets the client train."""

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Lets the update through."""
        return update


@dataclass(frozen=True)
class Drop:
    """A client that does not answer.

    Args:
        when: `before` it trains, or `after`, when its update is lost on the way.
    """

    when: Literal["before", "after"] = "before"

    def __post_init__(self) -> None:
        raise_errors(require_choice("when", self.when, ("before", "after")))

    def before(self, attempt: int | None) -> None:
        """Raises Planned."""
        if self.when == "before":
            raise PlannedFailure("dropped before it trained")

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Raises Planned."""
        raise PlannedFailure("dropped after it trained")


@dataclass(frozen=True)
class Corrupt(_Silent):
    """A client that sends rubbish.

    Args:
        how: `nan`, `inf` or `huge` (1e30) in the place of one number; `bit_flip` turns one bit of one number over;
            `wrong_shape` lengthens one tensor.
    """

    how: Literal["nan", "inf", "huge", "bit_flip", "wrong_shape"] = "nan"

    def __post_init__(self) -> None:
        raise_errors(require_choice("how", self.how, CORRUPTIONS))

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """One tensor of the update is not what it was."""
        tensors = [
            (group, name) for group, named in update.groups.items() for name in named if is_corruptible(named[name])
        ]
        if not tensors:  # of an algorithm that sends nothing
            return update
        group, name = tensors[int(generator.integers(len(tensors)))]
        spoilt = CORRUPTIONS[self.how](update.groups[group][name].clone(), generator)
        return replace(update, send={**update.groups, group: {**update.groups[group], name: spoilt}})


@dataclass(frozen=True)
class Raise(_Silent):
    """A client whose training raises RuntimeError."""

    def before(self, attempt: int | None) -> None:
        """Raises RuntimeError."""
        raise RuntimeError("raised as planned")


@dataclass(frozen=True)
class Hang(_Silent):
    """A worker process that hangs with a client, the first time; without worker processes nothing happens.

    Args:
        seconds: how long.
    """

    seconds: float = 1e6

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Worker processes, and somebody who gives up the one that hangs."""
        yield from _without_workers(self, facts)
        if facts.has_worker_processes and facts.wall_timeout_s is None:
            why = "only makes the run slow: nobody gives up a worker process that hangs"
            yield ConfigError("seconds", self.seconds, why, "executor.wall_timeout_s=SECONDS gives it up")

    def before(self, attempt: int | None) -> None:
        """Sleeps."""
        if attempt == 0:
            time.sleep(self.seconds)


@dataclass(frozen=True)
class CrashWorker(_Silent):
    """A worker process that is killed with a client, the first time; without worker processes nothing happens."""

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Worker processes."""
        return _without_workers(self, facts)

    def before(self, attempt: int | None) -> None:
        """Kills this process."""
        if attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _without_workers(fault: Fault, facts: FederationFacts) -> Iterator[ConfigError]:
    if not facts.has_worker_processes:
        why = "strikes worker processes, and the executor has none"
        yield ConfigError("", type(fault).__name__, why, "executor=processes has some", warning=True)
