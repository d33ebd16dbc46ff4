"""Planned faults of clients.

The faults are dropout, corrupt updates, exceptions, and worker processes that hang or crash.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fedlit.core.errors import ConfigError, raise_errors, require_at_least, require_choice
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Update
from fedlit.simulation.corruption import CORRUPTIONS, is_corruptible


class PlannedFailure(Exception):
    """Raised by a fault that takes a client out of a round."""


class Fault:
    """A planned fault of a client.

    By default a fault does nothing. A subclass overrides one method or more.
    """

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Return errors if the fault does not fit the federation.

        The keys of the errors are names of the fault's arguments.
        """
        return ()

    def at_exchange(self, number: int) -> None:
        """Act when an exchange with the server begins.

        An exception makes the client fail.

        Args:
            number: number of the exchange in the round, from 1; most rounds have one.
        """

    def before(self, attempt: int | None) -> None:
        """Act before the client trains; an exception makes the client fail.

        Args:
            attempt: number of worker processes that were lost with this job before; None without worker processes.
        """

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Return the update that the server receives.

        An exception makes the client fail.

        Args:
            update: the update of the client, which must not change.
            generator: for random numbers of the fault; the same again when the round runs again.
        """
        return update


@dataclass(frozen=True)
class Drop(Fault):
    """A client that drops out.

    Args:
        when: `before` it trains, or `after`, when its update does not arrive.
        exchange: the exchange that the client does not answer, counted from 1; None for `when`.
    """

    when: Literal["before", "after"] = "before"
    exchange: int | None = None

    def __post_init__(self) -> None:
        raise_errors(
            require_choice("when", self.when, ("before", "after")),
            require_at_least("exchange", 1 if self.exchange is None else self.exchange),
        )

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield an error if a round has no such exchange."""
        if self.exchange is not None and self.exchange > len(facts.exchanges):
            names = ", ".join(facts.exchanges)
            problem = f"must be from 1 to {len(facts.exchanges)}: a round has the exchanges {names}"
            yield ConfigError("exchange", self.exchange, problem)

    def at_exchange(self, number: int) -> None:
        """Raise PlannedFailure in the planned exchange."""
        if self.exchange == number:
            raise PlannedFailure(f"dropped out at exchange {number}, as planned")

    def before(self, attempt: int | None) -> None:
        """Raise PlannedFailure if the client drops out before it trains."""
        if self.exchange is None and self.when == "before":
            raise PlannedFailure("dropped out before training, as planned")

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Raise PlannedFailure, unless another exchange is planned."""
        if self.exchange is not None:
            return update
        raise PlannedFailure("dropped out after training, as planned")


@dataclass(frozen=True)
class Corrupt(Fault):
    """A client that sends a corrupt update.

    Args:
        how: `nan`, `inf` or `huge` (1e30) replaces one number; `bit_flip` flips one bit of one number; `wrong_shape` makes
            one tensor longer. The floats nan and inf, which Hydra makes of these words on the command line, become the words.
    """

    how: Literal["nan", "inf", "huge", "bit_flip", "wrong_shape"] | float = "nan"

    def __post_init__(self) -> None:
        if isinstance(self.how, float):
            object.__setattr__(self, "how", str(self.how))
        raise_errors(require_choice("how", self.how, CORRUPTIONS))

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Return the update with one corrupt tensor."""
        tensors = [
            (group, name) for group, named in update.groups.items() for name in named if is_corruptible(named[name])
        ]
        if not tensors:  # the algorithm sends nothing
            return update
        group, name = tensors[int(generator.integers(len(tensors)))]
        corrupt = CORRUPTIONS[str(self.how)](update.groups[group][name].clone(), generator)
        return replace(update, groups={**update.groups, group: {**update.groups[group], name: corrupt}})


@dataclass(frozen=True)
class Raise(Fault):
    """A client whose training raises RuntimeError."""

    def before(self, attempt: int | None) -> None:
        """Raise RuntimeError."""
        raise RuntimeError("raised as planned")


@dataclass(frozen=True)
class Hang(Fault):
    """A worker process that hangs with a client in the first attempt.

    Without worker processes nothing happens.

    Args:
        seconds: duration.
    """

    seconds: float = 1e6

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield an error without worker processes, or without a timeout for them."""
        yield from _check_worker_processes(self, facts)
        if facts.has_worker_processes and facts.timeout_s is None:
            problem = "only makes the run slow: no timeout replaces a worker process that hangs"
            yield ConfigError("seconds", self.seconds, problem, "set executor.wall_timeout_s=SECONDS")

    def before(self, attempt: int | None) -> None:
        """Sleep in the first attempt."""
        if attempt == 0:
            time.sleep(self.seconds)


@dataclass(frozen=True)
class CrashWorker(Fault):
    """A worker process killed with a client in the first attempt.

    Without worker processes nothing happens.
    """

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield a warning without worker processes."""
        return _check_worker_processes(self, facts)

    def before(self, attempt: int | None) -> None:
        """Kill this process in the first attempt."""
        if attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _check_worker_processes(fault: Fault, facts: FederationFacts) -> Iterator[ConfigError]:
    if not facts.has_worker_processes:
        problem = "strikes worker processes, and the executor has none"
        yield ConfigError("", type(fault).__name__, problem, "use executor=processes", warning=True)
