"""Noise on the sum of clipped updates: mechanisms with a trusted server."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from fedlit.aggregation.channel.stage import Clip, SumTicket, Ticket
from fedlit.aggregation.privacy.accounting import Accountant
from fedlit.aggregation.privacy.budget import (
    bound_accountant,
    budget_errors,
    calibrate_noise,
    check_budget,
    default_delta,
    privacy_statement,
)
from fedlit.aggregation.privacy.ledger import charge, list_releases, new_ledger
from fedlit.aggregation.privacy.mechanisms.mechanism import PrivacyMechanism
from fedlit.aggregation.privacy.refusals import check_central
from fedlit.aggregation.privacy.vectors import clip_factor, exact_norm
from fedlit.core.errors import ConfigError, raise_errors
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.core.messages import StageState
from fedlit.core.tensors import Layout

CLIP = "clip"
LEDGER = "releases"
FIGURES = "figures"


@dataclass(frozen=True, kw_only=True)
class SumNoise(PrivacyMechanism, Clip):
    """Clipping on the client, and noise on the sum by the server.

    One norm is taken over all groups of an update together, in float64. Noise is added once, to the sum, with standard
    deviation noise_multiplier * clipping norm. The divisor is the expected cohort: a failed client counts as an update of
    zeros, and a round without any update still releases noise.

    Args:
        noise_multiplier: standard deviation of the noise / clipping norm, >= 0; None to calibrate it to `epsilon`.
        epsilon: privacy budget of the planned rounds, > 0 and possibly infinite; None if the noise multiplier is given.
        delta: probability in (0, 1) with which epsilon may be exceeded; None for clients^(-1.1).
        sampling: choice of the cohorts; `bind` sets it.
        population: number of clients in the federation; `bind` sets it.
        expected: mean number of clients in a cohort; `bind` sets it.
    """

    sampling: Sampling | None = None
    expected: float | None = None

    def __post_init__(self) -> None:
        is_bound = self.sampling is not None
        raise_errors(*([] if is_bound else budget_errors(self.noise_multiplier, self.epsilon, self.delta)))

    @property
    def releases_empty(self) -> bool:
        """True: a missing release would reveal an empty cohort."""
        return True

    @property
    def needs_exact_clip(self) -> bool:
        """True: the noise is scaled by the norm of the clip."""
        return True

    @property
    def denominator(self) -> float | None:
        """The expected cohort."""
        return self.expected

    @property
    def accountant(self) -> Accountant | None:
        """The accountant of the federation's cohorts; None before `bind`."""
        if self.sampling is None or self.delta is None:
            return None
        multiplier = 1.0 if self.noise_multiplier is None else self.noise_multiplier
        sampling = self.accounted_sampling(self.sampling)
        return Accountant.of(sampling, self.population, noise_multiplier=multiplier, delta=self.delta)

    def accounted_sampling(self, sampling: Sampling) -> Sampling:
        """The sampling that the accountant may use; by default all of it."""
        return sampling

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Yield errors of settings under which the stated epsilon would be wrong."""
        yield from check_central(facts)
        yield from check_budget(self.noise_multiplier, self.epsilon, self.delta, len(facts.sizes))

    def bind(self, facts: FederationFacts) -> Self:
        """The mechanism for one federation, with its noise multiplier."""
        clients = len(facts.sizes)
        bound = replace(
            self,
            delta=default_delta(clients) if self.delta is None else self.delta,
            sampling=facts.sampling,
            population=clients,
            expected=expected_cohort(facts),
        )
        if self.noise_multiplier is not None:
            return bound
        assert self.epsilon is not None
        return replace(bound, noise_multiplier=calibrate_noise(bound, self.epsilon, facts.rounds))

    @abstractmethod
    def first_clip(self) -> float:
        """The clipping norm of round 1."""

    def init(self, layout: Layout) -> StageState:
        """Make the clipping norm for the clients, and the server's ledger."""
        private = {LEDGER: new_ledger(self.multiplier), FIGURES: torch.full((3,), math.nan, dtype=torch.float64)}
        return StageState({CLIP: torch.tensor(self.first_clip(), dtype=torch.float64)}, private)

    def factor(self, vector: Tensor, ticket: Ticket) -> float:
        """The factor that clips the vector to this round's norm."""
        return clip_factor(vector, float(ticket.shared[CLIP]))

    def charge_release(self, total: Tensor, std: float, ticket: SumTicket, state: StageState) -> StageState:
        """The state with one more release, and the figures of the round.

        Args:
            total: the sum of the clipped updates, float64 of shape (d,), without noise.
            std: root of the mean square of a number of the noise.
            ticket: facts about the sum.
            state: the state whose clipping norm clipped this round.
        """
        clipped = ticket.clipped / ticket.updates if ticket.updates else math.nan
        ratio = exact_norm(total) / (std * math.sqrt(len(total))) if std and len(total) else math.inf
        figures = torch.tensor([float(state.shared[CLIP]), clipped, ratio], dtype=torch.float64)
        private = {**state.private, LEDGER: charge(state.private[LEDGER], self.multiplier), FIGURES: figures}
        return StageState(state.shared, private)

    def metrics(self, state: StageState) -> Mapping[str, float]:
        """Epsilon so far, and figures of the last round.

        The fraction of clipped updates and the ratio of signal to noise are exact figures of the clients, for research. The
        stated epsilon does not cover their publication.
        """
        clip, clipped, ratio = state.private[FIGURES].tolist()
        spent = bound_accountant(self).epsilon_of(list_releases(state.private[LEDGER]))
        names = ("epsilon", "clip", "clipped_fraction", "signal_to_noise")
        figures = dict(zip(names, (spent, clip, clipped, ratio), strict=True))
        return {f"privacy/{name}": value for name, value in figures.items() if math.isfinite(value)}

    def statement(self) -> str | None:
        """A sentence about what the noise protects; None before `bind`."""
        return privacy_statement(
            self, self.noise_multiplier, "everyone who sees the released models (the server is trusted)"
        )


def expected_cohort(facts: FederationFacts) -> float:
    """The mean number of clients in a cohort.

    It is the schedule's number where the sampler does not determine it.
    """
    sampling = facts.sampling
    if sampling.size is not None:
        return float(sampling.size)
    return float(facts.cohort_size if sampling.probability is None else sampling.probability * len(facts.sizes))
