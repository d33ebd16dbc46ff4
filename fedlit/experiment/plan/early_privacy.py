"""The accountant of a configuration, without data and model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlit.aggregation import Channel, Stage
from fedlit.aggregation.privacy.accounting import Accountant
from fedlit.core.errors import ConfigError, ErrorCollector
from fedlit.core.facts import FederationFacts, Sampling
from fedlit.experiment.config.instantiate import instantiate_checked
from fedlit.experiment.config.settings import Settings, make_settings
from fedlit.server.sampling import Uniform
from fedlit.server.sampling.sampler import Sampler, as_sampler

LEADING_DIGITS = (1, 2, 5)
"""First digits of the rounds in the table of epsilon."""


@dataclass(frozen=True)
class EarlyPrivacy:
    """The accountant of a configuration.

    Args:
        accountant: the accountant, with the noise multiplier.
        sampling: choice of the cohorts.
        clients: number of clients.
        rounds: planned rounds.
        statement: what is protected, against whom.
    """

    accountant: Accountant
    sampling: Sampling
    clients: int
    rounds: int
    statement: str | None

    @classmethod
    def of(cls, channel: Channel, sampling: Sampling, clients: int, rounds: int) -> EarlyPrivacy:
        """The accountant of a bound channel.

        Raises:
            ConfigError: if no stage has one.
        """
        for stage in channel.stages:
            if stage.accountant is not None:
                return cls(stage.accountant, sampling, clients, rounds, stage.statement())
        hint = "choose a mechanism, such as privacy=central; python -m fedlit.train --help lists them"
        raise ConfigError("privacy", "", "states no epsilon: the configuration has no differential privacy", hint)

    @property
    def charged_rounds(self) -> int:
        """Number of planned rounds that are charged.

        With noise of the clients it is the largest possible number of rounds of one client.
        """
        return -(-self.rounds // (self.sampling.separation or 1)) if self.accountant.is_per_client else self.rounds


def find_accountant(config: Mapping[str, Any]) -> EarlyPrivacy | None:
    """Find the accountant of a configuration.

    Refusals that need the model or the data are not checked.

    Args:
        config: the resolved configuration, plain values.

    Returns:
        The accountant; None if it depends on the data or the model: on the number of clients, on the clients' examples, or on
        the numbers of an update.

    Raises:
        ConfigErrors: with all errors of the configuration that are found.
    """
    collector = ErrorCollector()
    settings = make_settings(config, collector)
    stages = _make_stages(config, collector)
    collector.raise_if_any()
    clients = 1 if settings.algorithm.pooled else settings.partition.declared_clients
    if stages is None or clients is None:
        return None
    facts = _facts(settings, clients, collector)
    channel = Channel.of(stages)
    collector.all += [*settings.schedule.check(facts), *channel.check(facts)]
    collector.raise_if_any()
    with collector.collect(""):
        return EarlyPrivacy.of(channel.bind(facts), facts.sampling, clients, facts.rounds)
    return collector.raise_if_any()


def _make_stages(config: Mapping[str, Any], collector: ErrorCollector) -> list[Stage] | None:
    """Make the stages of privacy.

    None if privacy is not a stage, or has a grid, which depends on the size of the model and on the encryption.
    """
    nodes = {"privacy": config.get("privacy")}
    nodes |= {f"channel.{name}": node for name, node in (config.get("channel") or {}).items()}
    made: list[Any] = []
    for key, node in nodes.items():
        with collector.collect(key):
            made += [instantiate_checked(node)] if node else []
    return made if all(isinstance(stage, Stage) and not stage.makes_grid for stage in made) else None


def _facts(settings: Settings, clients: int, collector: ErrorCollector) -> FederationFacts:
    """The facts that are known without data and model.

    Raises:
        ConfigErrors: if the sampler does not suit them.
    """
    schedule = settings.schedule.for_one_client() if settings.algorithm.pooled else settings.schedule
    sampler: Sampler = Uniform(1)
    with collector.collect("sampler"):
        if not settings.algorithm.pooled:
            sampler = as_sampler(settings.sampler(schedule.num_sampled(clients)))
    facts = FederationFacts(
        sizes=np.ones(clients, dtype=np.int64),
        cohort_size=schedule.cohort_size(clients),
        splits=("val", "test"),
        has_client_tests=False,
        has_clock=settings.clock is not None,
        rounds=schedule.rounds,
        over_select=schedule.over_select,
        quorum=schedule.quorum,
        max_cohort=sampler.max_cohort(clients),
        sampling=schedule.trained_sampling(sampler.sampling(clients)),
        algorithm=type(settings.algorithm).__name__,
        weighting=settings.algorithm.weighting,
        update_numbers={"parameters": 1},  # how many it has is unknown, and decides nothing here
    )
    collector.all += sampler.check(facts)
    collector.raise_if_any()
    return facts


def spread_rounds(rounds: int) -> Iterator[int]:
    """Yield 1, 2, 5, 10, ... below a number, and the number."""
    power = 1
    while power < rounds:
        yield from (digit * power for digit in LEADING_DIGITS if digit * power < rounds)
        power *= 10
    yield rounds
