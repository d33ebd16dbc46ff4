"""The accountant of a run: from its releases to epsilon."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from fedlit.aggregation.privacy.accounting.library import (
    fixed_epsilon,
    gaussian_epsilon,
    poisson_bound,
    poisson_epsilon,
)
from fedlit.aggregation.privacy.accounting.skellam import skellam_epsilon
from fedlit.core.errors import ConfigError, raise_errors, require
from fedlit.core.facts import Sampling

GAUSSIAN = "Gaussian composition"
"""Name of the exact composition of Gaussian mechanisms."""

SKELLAM = "RDP of Skellam noise"
"""Name of the composition of Skellam mechanisms."""


@dataclass(frozen=True)
class Accountant:
    """The accountant that fits a sampler, with the noise of a release.

    | sampling | neighbouring federations | method |
    |---|---|---|
    | `poisson` | add-or-remove: one has a client more | PLD |
    | `fixed` | replace-one: they differ in one client | RDP |
    | `every` | add-or-remove | exact Gaussian, one release a round |
    | `separated` | zero-out: one client sends zeros | exact Gaussian, a release every `separation` rounds |
    | `other` | zero-out | exact Gaussian, one release a round |
    | (`is_local`) | replace-one, for all that the client sends | exact Gaussian, one release a participation |
    | (`is_distributed`) | zero-out: one client sends zeros and its noise | RDP of Skellam noise, one release a participation |

    Only Poisson sampling and sampling of a fixed size amplify privacy: an attacker does not know the cohort.

    Args:
        sampling: choice of the cohorts.
        clients: number of clients in the federation.
        noise_multiplier: standard deviation of the noise divided by the clipping norm of one client, >= 0; under `square`
            divided by the largest norm of one client's integers.
        delta: in (0, 1).
        is_local: True if each client adds the noise to its own update, and the attacker sees single updates.
        square: largest squared norm of a client's integers, if all clients together add Skellam noise to a secure sum; None for
            Gaussian noise.
        size: number of these integers.
    """

    sampling: Sampling
    clients: int
    noise_multiplier: float
    delta: float
    is_local: bool = False
    square: int | None = None
    size: int = 0

    def __post_init__(self) -> None:
        noise, delta = self.noise_multiplier, self.delta
        hint = "a usual value is below 1 / the number of clients"
        raise_errors(
            require(0 <= noise < math.inf, "noise_multiplier", noise, "must be a number of at least 0"),
            require(0 < delta < 1, "delta", delta, "must be between 0 and 1", hint),
        )
        if self.sampling.by_loss:
            problem = "chooses clients by what they return, or does not state how it chooses: no accountant fits"
            hint = "take sampler=poisson; a sampler of your own states its choice by `sampling`"
            raise ConfigError("sampler", "", problem, hint)

    @classmethod
    def of(cls, sampling: Sampling, clients: int, *, noise_multiplier: float, delta: float) -> Accountant:
        """The accountant of noise on the sum of a cohort."""
        return cls(sampling, clients, noise_multiplier, delta)

    @classmethod
    def local(cls, *, noise_multiplier: float, delta: float) -> Accountant:
        """The accountant of noise that a client adds to its own update."""
        return cls(Sampling("every", probability=1.0), 1, noise_multiplier, delta, is_local=True)

    @classmethod
    def distributed(cls, *, noise_multiplier: float, delta: float, square: int, size: int) -> Accountant:
        """The accountant of Skellam noise that clients add together."""
        return cls(Sampling("every", probability=1.0), 1, noise_multiplier, delta, square=square, size=size)

    @property
    def is_distributed(self) -> bool:
        """True if the clients of a secure sum add the noise together."""
        return self.square is not None

    @property
    def is_per_client(self) -> bool:
        """True if a client is charged for its own participations alone.

        The attacker then sees who takes part, so sampling amplifies nothing.
        """
        return self.is_local or self.is_distributed

    @property
    def relation(self) -> str:
        """The relation of neighbouring federations: `add-or-remove`, `replace-one` or `zero-out`."""
        if self.is_distributed:
            return "zero-out"
        if self.is_local or self.sampling.kind == "fixed":
            return "replace-one"
        return "add-or-remove" if self.sampling.kind in ("poisson", "every") else "zero-out"

    @property
    def method(self) -> str:
        """Name of the method: PLD, RDP, `GAUSSIAN` or `SKELLAM`."""
        if self.is_distributed:
            return SKELLAM
        return {"poisson": "PLD", "fixed": "RDP"}.get(self.sampling.kind, GAUSSIAN)

    def statement(self, protected: str, attacker: str) -> str:
        """The sentence of a summary.

        Args:
            protected: what is protected, such as `all data of one client`.
            attacker: against whom, such as `whoever sees the released models`.
        """
        guarantee = f"differential privacy at delta {self.delta:.3g}, {self.relation}, accounted by {self.method}"
        research = "the noise follows from the seed, so it serves research only"
        return f"{protected[0].upper()}{protected[1:]} against {attacker}: {guarantee}; {research}."

    def with_noise(self, noise_multiplier: float) -> Accountant:
        """The same accountant with another noise multiplier."""
        return replace(self, noise_multiplier=noise_multiplier)

    def epsilon(self, rounds: int) -> float:
        """Epsilon after a number of rounds with the accountant's own noise.

        With noise of the client itself the rounds are those in which the client took part.
        """
        return self.epsilon_of([(self.noise_multiplier, rounds)])

    def epsilon_of(self, rounds: Iterable[tuple[float, float]]) -> float:
        """Epsilon after some rounds.

        Args:
            rounds: pairs (noise multiplier, number of rounds), in any order.

        Returns:
            Epsilon at `delta`, in nats; 0 without a round, infinity for a round without noise.
        """
        counts = self._releases(rounds)
        if not counts:
            return 0.0
        if min(counts) == 0:
            return math.inf
        releases = tuple(sorted(counts.items()))
        if self.square is not None:
            variances = tuple((noise**2 * self.square, count) for noise, count in releases)
            return skellam_epsilon(variances, self.square, self.size, self.delta)
        if self.method == "PLD":
            probability = self._probability
            return poisson_epsilon(tuple((noise, probability, count) for noise, count in releases), self.delta)
        return self._fixed_epsilon(releases) if self.method == "RDP" else self._unamplified_epsilon(releases)

    def fast_epsilon(self, rounds: int) -> float:
        """An upper bound on `epsilon` that is computed sooner."""
        noise = self.noise_multiplier
        if not rounds or not noise or self.method in (GAUSSIAN, SKELLAM):
            return self.epsilon(rounds)
        if self.method == "PLD":
            return poisson_bound(((noise, self._probability, rounds),), self.delta)
        return self._fixed_epsilon(((noise, rounds),), is_fast=True)

    @property
    def _probability(self) -> float:
        assert self.sampling.probability is not None
        return self.sampling.probability

    def _releases(self, rounds: Iterable[tuple[float, float]]) -> dict[float, int]:
        """The number of releases with a client, by noise multiplier."""
        counts: Counter[float] = Counter()
        for noise, count in rounds:
            counts[float(noise)] += int(count)
        separation = self.sampling.separation or 1
        return {noise: -(-count // separation) for noise, count in counts.items() if count}

    def _unamplified_epsilon(self, releases: tuple[tuple[float, int], ...]) -> float:
        """Epsilon of all releases as one Gaussian mechanism."""
        sensitivity = 2 if self.relation == "replace-one" else 1
        noise = sum(count * (noise / sensitivity) ** -2 for noise, count in releases) ** -0.5
        return gaussian_epsilon(noise, self.delta)

    def _fixed_epsilon(self, releases: tuple[tuple[float, int], ...], is_fast: bool = False) -> float:
        """The smaller of two upper bounds on epsilon."""
        size = self.sampling.size
        assert size is not None
        amplified = fixed_epsilon(releases, size, self.clients, self.delta, is_fast=is_fast)
        return min(amplified, self._unamplified_epsilon(releases))


def signal_to_noise(cohort: float, noise_multiplier: float, numbers: int) -> float:
    """The largest possible ratio of signal to noise of one round's sum.

    The signal is the norm of a sum of updates of the clipping norm C that all have one direction, cohort * C. The noise is the
    root of its expected squared norm, noise_multiplier * C * sqrt(numbers).

    Args:
        cohort: expected number of updates in the sum.
        noise_multiplier: standard deviation of the noise divided by C, >= 0.
        numbers: numbers in an update, >= 1.

    Returns:
        The ratio; infinity without noise.
    """
    return cohort / (noise_multiplier * math.sqrt(numbers)) if noise_multiplier else math.inf
