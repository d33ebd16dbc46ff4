"""Checks and plans of private training before round 1."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import Callback, Trainer

from fedlit.algorithms.algorithm import Algorithm
from fedlit.client.dp_sgd.accounting import ReleaseHistory, noise_multiplier_of
from fedlit.client.dp_sgd.private_fit import PrivateTraining, repeated_key
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.steps.planned import planned_steps
from fedlit.core.errors import ConfigError, describe_exception
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import ServerState
from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors, zeros_like
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading

if TYPE_CHECKING:
    from fedlit.client.trainer import TrainerConfig


@dataclass
class FitRecorder:
    """Stands for local training, and notes what a client rule wants.

    Implements the protocol `Local`. A fit moves nothing.

    Attributes:
        fits: passes over the shard of each fit, None for the schedule's local work.
        keys: key of each fit.
        statistics: names of the statistics of the client's examples that the rule asked for.
    """

    examples: int = 1
    lr_factor: float = 1.0
    fits: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    statistics: list[str] = field(default_factory=list)

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        epochs: int | None = None,
        key: int = 0,
    ) -> FitResult:
        """Note a fit, and return `model` after one step."""
        if only is None or only:
            self.fits.append(epochs)
            self.keys.append(key)
        return FitResult(model, 1, self.examples, {}, lambda: dict.fromkeys(model.parameters, 1.0))

    def loss(self, model: Model) -> float:
        """Note the statistic, and return 1."""
        self.statistics.append("the loss")
        return 1.0

    def gradient(self, model: Model) -> Tensors:
        """Note the statistic, and return zeros."""
        self.statistics.append("the gradient")
        return zeros_like(model.parameters)


def record_fits(algorithm: Algorithm, state: ServerState) -> tuple[int | None, ...]:
    """Return the passes over the shard of a round's fits.

    Args:
        algorithm: the algorithm, bound to the module.
        state: the server state before round 1.

    Raises:
        ConfigError: if the algorithm wants statistics of the examples without noise, trains for evaluations, or trains twice
            with one key.
    """
    name, recorder = type(algorithm).__name__, FitRecorder()
    try:
        algorithm.client(recorder, state.shared, {})
        fits = tuple(recorder.fits)
        algorithm.personal_model(recorder, state.shared, {})
    except ConfigError:
        raise
    except Exception as error:  # user code
        problem = f"fails before round 1, where privacy=example counts its fits: {describe_exception(error)}"
        raise ConfigError("algorithm", name, problem) from error
    if recorder.statistics:
        problem = f"uses {recorder.statistics[0]} of each client's examples, which privacy=example does not cover"
        raise ConfigError("algorithm", name, problem, "use an algorithm that needs local training alone")
    if len(recorder.fits) > len(fits):
        problem = "trains clients for their evaluation, and no accountant would count these steps"
        raise ConfigError("algorithm", name, problem, "use an algorithm that evaluates models as they are")
    if len(set(recorder.keys)) < len(recorder.keys):
        raise repeated_key(name)
    return fits


def check_privacy(
    config: TrainerConfig, replica: ModuleReplica, data: ClientData, facts: FederationFacts
) -> list[ConfigError]:
    """The errors and warnings of privacy in local training; none without privacy.

    Args:
        config: settings of the clients' Trainers.
        replica: the module with its initial weights.
        data: source of the clients' examples.
        facts: facts about the federation.
    """
    if config.privacy is None:
        return []
    found = list(config.privacy.check(facts, data.loading, config.options))
    if any(not error.warning for error in found):
        return found

    def make_trainer(first: Callback, **options: Any) -> Trainer:
        return config.make_trainer(first, *config.callbacks(), **config.duration, **options)

    try:
        from fedlit.client.dp_sgd.independence import check_private_fit  # here: it imports Opacus

        check_private_fit(replica, make_trainer, data, int(facts.sizes.argmax()))
    except ConfigError as error:
        found.append(error)
    return found


def bind_privacy(
    config: TrainerConfig, algorithm: Algorithm, state: ServerState, facts: FederationFacts
) -> TrainerConfig:
    """Return the settings of Trainers with privacy that knows the run.

    Args:
        config: the settings; they stay as they are without privacy.
        algorithm: the algorithm, bound to the module.
        state: the server state before round 1.
        facts: facts about the federation.

    Raises:
        ConfigError: see `record_fits`.
    """
    if config.privacy is None:
        return config
    most = -(-facts.rounds // (facts.sampling.separation or 1))  # rounds of one client
    return replace(config, privacy=config.privacy.bind(most, record_fits(algorithm, state)))


def make_private_training(
    config: TrainerConfig, data: ClientData, round: int, client: int, client_state: Groups
) -> PrivateTraining | None:
    """Return a client's private training in a round; None without privacy.

    Args:
        config: settings of the Trainers.
        data: source of the client's examples.
        round: the round, counted from 0.
        client: id of the client.
        client_state: the client's state before the round, with its history.
    """
    if config.privacy is None:
        return None
    steps = config.privacy.rounds * _steps_of_a_round(config, data.loading, data.population.size(client))
    return PrivateTraining(config.privacy, data, round, client, steps, ReleaseHistory.of(client_state))


def history_after_round(config: TrainerConfig, loading: Loading, examples: int, client_state: Groups) -> Groups:
    """Return a client's history after a round of unseen training.

    All steps of the round are counted.

    Args:
        config: settings of the Trainers; empty without privacy.
        loading: recipe of batches.
        examples: number of examples of the client.
        client_state: the client's state before the round, with its history.
    """
    privacy = config.privacy
    if privacy is None or not examples:
        return {}
    steps, rate = _steps_of_a_round(config, loading, examples), privacy.sample_rate(examples, loading.local_batch_size)
    noise = noise_multiplier_of(privacy, rate, privacy.rounds * steps)
    return ReleaseHistory.of(client_state).add(noise, rate, steps).groups()


def _steps_of_a_round(config: TrainerConfig, loading: Loading, examples: int) -> int:
    assert config.privacy is not None
    works = (config.with_budget(epochs) for epochs in config.privacy.fits)
    return sum(int(planned_steps(work, loading, np.array([examples]))[0]) for work in works)
