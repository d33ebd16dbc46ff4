"""Local differential privacy: each client clips its update and adds noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlit.aggregation.channel.stage import Order, SumTicket, Ticket
from fedlit.aggregation.privacy.accounting import Accountant
from fedlit.aggregation.privacy.budget import (
    bound_accountant,
    budget_errors,
    calibrate_noise,
    check_budget,
    clip_error,
    default_delta,
    privacy_statement,
)
from fedlit.aggregation.privacy.ledger import count_participations
from fedlit.aggregation.privacy.mechanisms.mechanism import PrivacyMechanism
from fedlit.aggregation.privacy.refusals import check_releases
from fedlit.aggregation.privacy.vectors import add_gaussian, clip_factor
from fedlit.core.errors import ConfigError, raise_errors
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout, Tensors

PARTICIPATIONS = "participations"


@dataclass(frozen=True, kw_only=True)
class LocalDP(PrivacyMechanism):
    """Clipping and noise on the client: the server is not trusted.

    A message hides which data the client has: any other data could change the clipped update by 2 * clip. The noise has the
    standard deviation noise_multiplier * clip. Each client is charged for the rounds in which it was asked to train, also if it
    failed. The recorded epsilon is that of the client with the most rounds. Sampling does not amplify privacy, since the server
    sees who sends a message.

    Args:
        clip: clipping norm, > 0.
        noise_multiplier: standard deviation of the noise / clip, >= 0; None to calibrate it to `epsilon`.
        epsilon: privacy budget of a client that takes part in as many of the planned rounds as the sampler allows, > 0; None if
            the noise multiplier is given.
        delta: probability in (0, 1) with which epsilon may be exceeded; None for clients^(-1.1).
        population: number of clients in the federation; `bind` sets it.
    """

    order = Order.PROTECT

    clip: float = 1.0

    def __post_init__(self) -> None:
        errors = [] if self.population else budget_errors(self.noise_multiplier, self.epsilon, self.delta)
        raise_errors(clip_error(self.clip), *errors)

    @property
    def accountant(self) -> Accountant | None:
        """The accountant of one client's messages; None before `bind`."""
        if not self.population or self.delta is None:
            return None
        multiplier = 1.0 if self.noise_multiplier is None else self.noise_multiplier
        return Accountant.local(noise_multiplier=multiplier, delta=self.delta)

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors of releases that the noise on messages does not cover."""
        yield from check_releases(facts)
        yield from check_budget(self.noise_multiplier, self.epsilon, self.delta, len(facts.sizes))

    def bind(self, facts: FederationFacts) -> LocalDP:
        """The mechanism for one federation, with its noise multiplier."""
        clients = len(facts.sizes)
        bound = replace(self, delta=default_delta(clients) if self.delta is None else self.delta, population=clients)
        if self.noise_multiplier is not None:
            return bound
        assert self.epsilon is not None
        rounds = most_participations(facts.sampling, facts.rounds)
        return replace(bound, noise_multiplier=calibrate_noise(bound, self.epsilon, rounds))

    def init(self, layout: Layout) -> StageState:
        """The number of messages of each client."""
        return StageState(private={PARTICIPATIONS: torch.zeros(self.population, dtype=torch.int64)})

    def encode(self, vector: Tensor, ticket: Ticket) -> tuple[Tensor, Tensors]:
        """Clip the update and add noise, in float64."""
        factor = clip_factor(vector, self.clip)
        return add_gaussian(vector, ticket.generator, self.multiplier * self.clip, factor), {}

    def open(self, total: Tensor, ticket: SumTicket, state: StageState) -> tuple[Tensor, StageState]:
        """Charge the clients of the round."""
        return total, self.lose(ticket, state)

    def lose(self, ticket: SumTicket, state: StageState) -> StageState:
        """Charge the clients of a lost round: they may have sent messages."""
        return StageState(private={PARTICIPATIONS: count_participations(state.private[PARTICIPATIONS], ticket.clients)})

    def metrics(self, state: StageState) -> Mapping[str, float]:
        """Epsilon of the client with the most messages, and the clipping norm."""
        most = int(state.private[PARTICIPATIONS].max())
        spent = bound_accountant(self).epsilon(most)
        figures = {"privacy/epsilon": spent, "privacy/clip": self.clip}
        return {name: value for name, value in figures.items() if value < float("inf")}

    def statement(self) -> str | None:
        """A sentence about what the noise protects; None before `bind`."""
        return privacy_statement(self, self.noise_multiplier, "the server and everyone who sees its messages")


def most_participations(sampling: Sampling, rounds: int) -> int:
    """The largest number of rounds in which a client can take part."""
    return -(-rounds // (sampling.separation or 1))
