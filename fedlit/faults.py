"""What goes wrong on purpose, and what is done about what goes wrong.

A plan strikes a client in a round by a draw of its own, keyed by (seed, round, client), so that the same clients fail under
every executor, with every algorithm, and when the round is run again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fedlit.messages import Update
from fedlit.mistakes import Mistake, one_of
from fedlit.streams import Purpose, stream


class Planned(Exception):
    """Raised by a fault that takes a client out of a round."""


class LostRounds(RuntimeError):
    """Too many rounds in a row were lost."""


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
class Plan:
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
        if not 0 <= self.probability <= 1:
            raise Mistake("probability", self.probability, "must be from 0 to 1")

    def strikes(self, round: int, client: int, generator: np.random.Generator) -> bool:
        """Whether it strikes a client in a round, counted from 0; takes one number from the generator."""
        drawn = generator.random() < self.probability
        within = self.rounds is None or round + 1 in self.rounds
        return drawn and within and (self.clients is None or client in self.clients)


@dataclass(frozen=True)
class Faults:
    """What is done about clients that fail, and which are made to.

    Args:
        on_error: `drop` leaves the client out, `retry` runs it again with the same seeds first, `fail` ends the run.
        retries: how often, >= 1.
        max_lost_rounds: so many lost rounds in a row end the run, >= 1; those without anybody to ask are not counted.
        max_norm: Euclidean norm above which an update is not taken, > 0; None for any.
        plans: faults of clients.
    """

    on_error: Literal["drop", "retry", "fail"] = "drop"
    retries: int = 1
    max_lost_rounds: int = 3
    max_norm: float | None = None
    plans: Sequence[Plan] = ()

    def __post_init__(self) -> None:
        one_of("on_error", self.on_error, ("drop", "retry", "fail"))
        for key in ("retries", "max_lost_rounds"):
            if getattr(self, key) < 1:
                raise Mistake(key, getattr(self, key), "must be a whole number of at least 1")
        if self.max_norm is not None and not self.max_norm > 0:
            raise Mistake("max_norm", self.max_norm, "must be a number above 0, or null")

    def bear(self, lost: int) -> None:
        """Raises LostRounds if so many rounds in a row were lost that the run is to end."""
        if lost >= self.max_lost_rounds:
            raise LostRounds(f"{lost} rounds in a row were lost, and faults.max_lost_rounds={self.max_lost_rounds}")

    def striking(self, seed: int, round: int, client: int) -> list[tuple[Fault, np.random.Generator]]:
        """The faults that strike a client in a round, counted from 0, each with a generator for what it does."""
        drawn = [(plan, stream(seed, Purpose.FAULTS, round, client, number)) for number, plan in enumerate(self.plans)]
        return [(plan.fault, generator) for plan, generator in drawn if plan.strikes(round, client, generator)]


@dataclass(frozen=True)
class Drop:
    """A client that does not answer.

    Args:
        when: `before` it trains, or `after`, when its update is lost on the way.
    """

    when: Literal["before", "after"] = "before"

    def __post_init__(self) -> None:
        one_of("when", self.when, ("before", "after"))

    def before(self, attempt: int | None) -> None:
        """Raises Planned."""
        if self.when == "before":
            raise Planned("dropped before it trained")

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Raises Planned."""
        raise Planned("dropped after it trained")


@dataclass(frozen=True)
class Corrupt:
    """A client that sends rubbish.

    Args:
        how: `nan`, `inf` or `huge` (1e30) in the place of one number; `bit_flip` turns one bit of one number over;
            `wrong_shape` lengthens one tensor.
    """

    how: Literal["nan", "inf", "huge", "bit_flip", "wrong_shape"] = "nan"

    def __post_init__(self) -> None:
        one_of("how", self.how, _RUBBISH)

    def before(self, attempt: int | None) -> None:
        """Does nothing."""

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """One tensor of the update is not what it was."""
        tensors = [(group, name) for group, named in update.send.items() for name in named if _is_real(named[name])]
        group, name = tensors[int(generator.integers(len(tensors)))]
        spoilt = _RUBBISH[self.how](update.send[group][name].clone(), generator)
        return replace(update, send={**update.send, group: {**update.send[group], name: spoilt}})


@dataclass(frozen=True)
class Raise:
    """A client whose training raises RuntimeError."""

    def before(self, attempt: int | None) -> None:
        """Raises RuntimeError."""
        raise RuntimeError("raised as planned")

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Does nothing."""
        return update


@dataclass(frozen=True)
class Hang:
    """A worker process that hangs with a client, the first time; without worker processes nothing happens.

    Args:
        seconds: how long.
    """

    seconds: float = 1e6

    def before(self, attempt: int | None) -> None:
        """Sleeps."""
        if attempt == 0:
            time.sleep(self.seconds)

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Does nothing."""
        return update


@dataclass(frozen=True)
class CrashWorker:
    """A worker process that is killed with a client, the first time; without worker processes nothing happens."""

    def before(self, attempt: int | None) -> None:
        """Kills this process."""
        if attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, update: Update, generator: np.random.Generator) -> Update:
        """Does nothing."""
        return update


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0


def _put(tensor: Tensor, generator: np.random.Generator, value: float) -> Tensor:
    tensor.view(-1)[int(generator.integers(tensor.numel()))] = value
    return tensor


def _bit_flip(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    numbers = tensor.view(-1).view(torch.uint8)
    numbers[int(generator.integers(numbers.numel()))] ^= 1 << int(generator.integers(8))
    return tensor


_RUBBISH: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "nan": lambda tensor, generator: _put(tensor, generator, float("nan")),
    "inf": lambda tensor, generator: _put(tensor, generator, float("inf")),
    "huge": lambda tensor, generator: _put(tensor, generator, 1e30),
    "bit_flip": _bit_flip,
    "wrong_shape": lambda tensor, generator: torch.cat([tensor.view(-1), tensor.new_zeros(1)]),
}
