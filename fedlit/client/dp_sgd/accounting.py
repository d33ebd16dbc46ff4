"""The accountant of a client: history, epsilon, noise for a target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from fedlit.aggregation.privacy.accounting import Accountant, calibrate, epsilon_quantiles, example_epsilon
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.core.facts import Sampling
from fedlit.core.tensors import Groups, Tensors

PRIVACY_PREFIX = "privacy/"
"""Prefix of the groups in a client state that belong to the accountant."""

HISTORY = f"{PRIVACY_PREFIX}history"

EPSILON = "privacy/epsilon"
"""The largest epsilon of all clients so far."""

Release = tuple[float, float, int]
"""Noise multiplier, sampling probability, number of steps."""


@dataclass(frozen=True)
class ReleaseHistory:
    """The steps of DP-SGD that a client has taken, in all rounds.

    Args:
        releases: equal steps together, in the order of their first step.
    """

    releases: tuple[Release, ...] = ()

    @classmethod
    def of(cls, client_state: Groups) -> ReleaseHistory:
        """The history in a client state; empty for a client without one."""
        columns = client_state.get(HISTORY)
        if columns is None:
            return cls()
        names = ("noise_multiplier", "sample_rate", "steps")
        return cls(tuple(zip(*(columns[name].tolist() for name in names), strict=True)))

    def add(self, noise_multiplier: float, sample_rate: float, steps: int) -> ReleaseHistory:
        """The history after further steps.

        Steps that equal earlier ones are added to them.
        """
        counts = {(noise, rate): count for noise, rate, count in self.releases}
        if steps:
            key = (noise_multiplier, sample_rate)
            counts[key] = counts.get(key, 0) + steps
        return ReleaseHistory(tuple((noise, rate, count) for (noise, rate), count in counts.items()))

    def or_longer(self, client_state: Groups) -> ReleaseHistory:
        """The longer one: this history or that in a client state.

        It joins two attempts at a round, which have the same noise as far as both of them get.
        """
        other = ReleaseHistory.of(client_state)
        return max(self, other, key=lambda each: sum(steps for _, _, steps in each.releases))

    def groups(self) -> dict[str, Tensors]:
        """The history as a group of a client state.

        There is no group without a step.
        """
        if not self.releases:
            return {}
        noise, rates, steps = zip(*self.releases, strict=True)
        return {
            HISTORY: {
                "noise_multiplier": torch.tensor(noise, dtype=torch.float64),
                "sample_rate": torch.tensor(rates, dtype=torch.float64),
                "steps": torch.tensor(steps, dtype=torch.int64),
            }
        }


def epsilon_of(history: ReleaseHistory, delta: float) -> float:
    """Epsilon of the examples of a client, at `delta`."""
    return example_epsilon(history.releases, delta)


@lru_cache(65536)
def noise_multiplier_for(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The noise multiplier with which a client's steps spend epsilon.

    Args:
        epsilon: the target, > 0.
        delta: in (0, 1).
        sample_rate: probability that an example is in a batch, in (0, 1].
        steps: steps of the client in the whole run, >= 1.
    """
    sampling = Sampling("poisson", probability=sample_rate)
    return calibrate(Accountant.of(sampling, 1, noise_multiplier=1.0, delta=delta), epsilon, steps)


def noise_multiplier_of(privacy: ExamplePrivacy, sample_rate: float, steps: int) -> float:
    """The noise multiplier of a client.

    Args:
        privacy: the settings.
        sample_rate: probability that an example is in a batch, in (0, 1].
        steps: steps of the client in the whole run, >= 1.
    """
    if privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    assert privacy.epsilon is not None
    return noise_multiplier_for(privacy.epsilon, privacy.delta, sample_rate, steps)


def privacy_metrics(
    privacy: ExamplePrivacy | None,
    spent: Mapping[int, Groups],
    training: Mapping[str, float],
    before: Mapping[str, float],
) -> dict[str, float]:
    """Figures of privacy for a round's record; none without privacy.

    Args:
        privacy: the settings of local training.
        spent: privacy history of each client of the round.
        training: figures of the clients' fits.
        before: metrics of the round before.

    Returns:
        The largest epsilon of all clients so far; quantiles of epsilon and the smallest noise multiplier over the clients of
        the round; the clip, and the figures of the fits. Without noise epsilon is infinite and left out.
    """
    if privacy is None:
        return {}
    histories = [ReleaseHistory.of(groups) for groups in spent.values()]
    metrics = {EPSILON: before.get(EPSILON, 0.0), "privacy/clip": privacy.clip, **training}
    if histories:
        found = epsilon_quantiles([epsilon_of(history, privacy.delta) for history in histories])
        metrics |= {**found, EPSILON: max(metrics[EPSILON], found[EPSILON])}
    if noises := [noise for history in histories for noise, _, _ in history.releases]:
        metrics["privacy/noise_multiplier"] = min(noises)
    return {name: value for name, value in metrics.items() if value < math.inf}
