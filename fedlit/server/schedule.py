"""Rounds, cohort size, local work and learning rates of a federation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fedlit.core.errors import ConfigError, raise_errors, require, require_at_least, require_choice
from fedlit.core.facts import FederationFacts, Sampling

if TYPE_CHECKING:  # a schedule alone needs no Lightning
    from fedlit.client.trainer import TrainerConfig


@dataclass(frozen=True)
class Schedule:
    """Rounds, cohort size and local work.

    Args:
        rounds: number of rounds, >= 1.
        client_fraction: share of the clients in each round's cohort, in (0, 1]; at least one client.
        clients_per_round: size of the cohort; overrides `client_fraction` if it is not None.
        local_epochs: passes of a client over its shard in a round, >= 1.
        local_steps: optimizer steps of a client in a round; overrides `local_epochs` if it is not None. A module then sees
            trainer.max_epochs = -1; trainer.estimated_stepping_batches is this number.
        eval_every: rounds between evaluations, >= 1; the last round is always evaluated.
        stop_at: target of the monitored validation metric that ends the run; None runs all rounds.
        over_select: factor >= 1 by which more clients are sampled than a cohort has; the first to finish are taken.
        quorum: updates that a round needs, >= 1; with fewer the round is lost and the model stays the same.
        client_state: `reset` gives a client a new optimizer in each round; `keep` keeps its optimizer's state as client state.
        lr: factor on the local learning rate in round t of T: `constant` 1; `step` lr_gamma^(t // lr_every);
            `cosine` from 1 in the first round to lr_floor after the last. A step takes the module's own rate of that moment
            times the factor; outside of steps the module sees its own rate.
        lr_every: rounds between two steps of `step`.
        lr_gamma: factor of one step of `step`, in (0, 1].
        lr_floor: end of `cosine`, in [0, 1].
    """

    rounds: int = 20
    client_fraction: float = 0.3
    clients_per_round: int | None = None
    local_epochs: int = 2
    local_steps: int | None = None
    eval_every: int = 1
    stop_at: float | None = None
    over_select: float = 1.0
    quorum: int = 1
    client_state: Literal["reset", "keep"] = "reset"
    lr: Literal["constant", "step", "cosine"] = "constant"
    lr_every: int = 10
    lr_gamma: float = 0.5
    lr_floor: float = 0.0

    def __post_init__(self) -> None:
        counts = ("rounds", "local_epochs", "eval_every", "quorum", "lr_every", "clients_per_round", "local_steps")
        share, over = self.client_fraction, self.over_select
        hint = "1 is full participation; clients_per_round takes a number of clients"
        raise_errors(
            *(require_at_least(key, getattr(self, key)) for key in counts if getattr(self, key) is not None),
            require(0 < share <= 1, "client_fraction", share, "must be above 0 and at most 1", hint),
            require(
                1 <= over < math.inf,
                "over_select",
                over,
                "must be a number of at least 1",
                "1 samples no further clients",
            ),
            require(
                self.stop_at is None or math.isfinite(self.stop_at), "stop_at", self.stop_at, "must be a finite number"
            ),
            require_choice("client_state", self.client_state, ["reset", "keep"]),
            require_choice("lr", self.lr, ["constant", "step", "cosine"]),
            require(0 < self.lr_gamma <= 1, "lr_gamma", self.lr_gamma, "must be above 0 and at most 1"),
            require(0 <= self.lr_floor <= 1, "lr_floor", self.lr_floor, "must be at least 0 and at most 1"),
        )

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors of the cohort's size, and of an evaluation without data."""
        clients = len(facts.sizes)
        if facts.cohort_size > clients:
            problem = f"is more than the {clients} clients of the federation"
            yield ConfigError(
                "schedule.clients_per_round", self.clients_per_round, problem, "take fewer clients a round"
            )
        if self.quorum > (largest := facts.max_cohort or facts.cohort_size):
            problem = f"is more than the {largest} clients of a round: every round would be lost"
            yield ConfigError("schedule.quorum", self.quorum, problem, "take less, or more clients a round")
        if self.over_select > 1 and not facts.has_clock:
            problem = "takes the clients that finish first, which only a clock knows"
            yield ConfigError(
                "schedule.over_select", self.over_select, problem, "set clock=lognormal, or over_select=1"
            )
        elif self.over_select > 1 and self.num_sampled(clients) == facts.cohort_size:
            problem = f"samples no more than the {facts.cohort_size} clients of a round"
            hint = "take a larger factor, or fewer clients a round"
            yield ConfigError("schedule.over_select", self.over_select, problem, hint, warning=True)
        if self.stop_at is not None and "val" not in facts.splits:
            hint = "data.val_fraction=0.1 holds some out"
            yield ConfigError("schedule.stop_at", self.stop_at, "needs validation examples to be measured on", hint)
        if not facts.splits and not facts.has_client_tests:
            problem = "has no effect: there are no examples to evaluate on"
            hint = "data.val_fraction=0.1 or data.client_test_fraction=0.1 holds some out"
            yield ConfigError("schedule.eval_every", self.eval_every, problem, hint, warning=True)
        elif self.eval_every > self.rounds:
            problem = f"is more than schedule.rounds={self.rounds}: only the last round is evaluated"
            yield ConfigError("schedule.eval_every", self.eval_every, problem, "take a smaller number", warning=True)

    def for_one_client(self) -> Schedule:
        """The same schedule for one client that takes part in every round."""
        return replace(self, client_fraction=1.0, clients_per_round=None, over_select=1.0, quorum=1)

    def cohort_size(self, clients: int) -> int:
        """Number of clients in a round's cohort, out of `clients`."""
        if self.clients_per_round is not None:
            return self.clients_per_round
        return max(1, round(self.client_fraction * clients))

    def num_sampled(self, clients: int) -> int:
        """Number of clients that are sampled for a round, at most all."""
        count = self.cohort_size(clients) * self.over_select
        return min(math.ceil(count * (1 - 1e-12)), clients)  # 100 * 1.1 is 110

    def trained_sampling(self, sampling: Sampling) -> Sampling:
        """The choice of the clients that train.

        Of an over-selected cohort only the fastest train.

        Args:
            sampling: the choice of the sampled clients.
        """
        return sampling if self.over_select == 1 else Sampling("other", by_loss=sampling.by_loss)

    def lr_factor(self, round: int) -> float:
        """Factor on the local learning rate in a round, counted from 0."""
        if self.lr == "step":
            return self.lr_gamma ** (round // self.lr_every)
        if self.lr == "cosine":
            return self.lr_floor + (1 - self.lr_floor) * (1 + math.cos(math.pi * round / self.rounds)) / 2
        return 1.0

    def is_evaluated(self, round: int) -> bool:
        """True if the model is evaluated after this round, counted from 0."""
        return (round + 1) % self.eval_every == 0 or round + 1 == self.rounds

    def configure(self, config: TrainerConfig) -> TrainerConfig:
        """The Trainer config with this schedule's local work and learning rates."""
        return config.with_work(
            epochs=self.local_epochs,
            steps=self.local_steps,
            lr_factor=None if self.lr == "constant" else self.lr_factor,
            keep_optimizer=self.client_state == "keep",
        )
