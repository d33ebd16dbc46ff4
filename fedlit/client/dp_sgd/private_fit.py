"""A client's private fits in a round."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import LightningModule

from fedlit.client.dp_sgd.accounting import ReleaseHistory, noise_multiplier_of
from fedlit.client.dp_sgd.poisson import PoissonBatches
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.core.errors import ConfigError
from fedlit.core.streams import Purpose, stream, torch_stream
from fedlit.data.client_data import ClientData
from fedlit.data.protocols import Batches

if TYPE_CHECKING:  # imports Opacus, an optional library
    from fedlit.client.dp_sgd.private_gradients import PrivateGradients


@dataclass
class PrivateTraining:
    """DP-SGD of a client in a round, with one history.

    Args:
        privacy: the settings.
        data: source of the client's examples.
        round, client: keys of the random numbers.
        planned_steps: steps of the client in the whole run, if it takes part in every round.
        history: the client's history; each fit adds its steps.
        keys: keys of the fits so far, of which each has its own batches and noise.
    """

    privacy: ExamplePrivacy
    data: ClientData
    round: int
    client: int
    planned_steps: int
    history: ReleaseHistory = field(default_factory=ReleaseHistory)
    keys: set[int] = field(default_factory=set)

    @property
    def shard(self) -> np.ndarray:
        """Sample numbers of the client, shape (n,)."""
        return np.asarray(self.data.population.shard(self.client))

    @property
    def sample_rate(self) -> float:
        """Probability that an example is in a batch."""
        return self.privacy.sample_rate(len(self.shard), self.data.loading.local_batch_size)

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of this client's noise / clip."""
        return noise_multiplier_of(self.privacy, self.sample_rate, self.planned_steps)


@dataclass
class PrivateFit:
    """One fit by DP-SGD.

    Args:
        training: the client's private training in the round.
        key: key of the fit.
        metrics: figures of the finished fit for the record. What the module logs is not in them: it has no noise.
    """

    training: PrivateTraining
    key: int
    metrics: dict[str, float] = field(default_factory=dict)
    _sizes: deque[int] = field(default_factory=deque)

    @cached_property
    def batches(self) -> Batches:
        """Poisson batches.

        A pass has as many as without privacy: examples / batch size, rounded up.
        """
        training, data = self.training, self.training.data
        keys, shard = (training.round, training.client, self.key), training.shard
        order, draws = data.batch_order(*keys), stream(data.seed, Purpose.LOADER, *keys)
        count = -(-len(shard) // (data.loading.local_batch_size or max(1, len(shard))))
        batches = PoissonBatches(
            lambda rows: data.train.batches(rows, None, order), shard, training.sample_rate, count, draws, self._sizes
        )
        return data.with_noise(batches, *keys)

    @contextmanager
    def protect(self, module: LightningModule) -> Iterator[PrivateGradients]:
        """Make the gradients of the fit inside the block private.

        Args:
            module: the module, with frozen parameters frozen.

        Yields:
            The callback that makes the gradients private; the fit must have it before all others.

        Raises:
            ConfigError: if the fit cannot be private.
        """
        from fedlit.client.dp_sgd.private_gradients import PrivateGradients  # here: it imports Opacus

        training = self.training
        keys, seed = (training.round, training.client, self.key), training.data.seed
        noise, rate = training.noise_multiplier, training.sample_rate
        callback = PrivateGradients(
            module,
            self._sizes,
            clip=training.privacy.clip,
            noise_multiplier=noise,
            expected_size=rate * len(training.shard),
            make_generator=lambda device: torch_stream(seed, Purpose.EXAMPLE_NOISE, *keys, device),
        )
        try:
            with callback.attached():
                yield callback
        finally:  # the steps before an error have used the examples, too
            training.history = training.history.add(noise, rate, callback.steps)
        self.metrics |= callback.figures()


def start_private_fit(privacy: ExamplePrivacy | None, training: PrivateTraining | None, key: int) -> PrivateFit | None:
    """Return a private fit; None without privacy.

    Args:
        privacy: the settings of the clients' Trainers.
        training: the client's private training in the round; None in an evaluation.
        key: key of the fit.

    Raises:
        ConfigError: if no accountant would count the fit, or a fit of this round had the same key.
    """
    if training is not None:
        if key in training.keys:
            raise repeated_key("")
        training.keys.add(key)
        return PrivateFit(training, key)
    if privacy is not None:
        problem = "does not cover local training for an evaluation, which the algorithm does with each client's model"
        raise ConfigError("privacy", "example", problem, "use an algorithm that evaluates models as they are")
    return None


def refuse_statistics(privacy: ExamplePrivacy | None, name: str) -> None:
    """Raise ConfigError for a statistic of raw examples in private training.

    Args:
        privacy: the settings; None for training without privacy.
        name: the statistic.
    """
    if privacy is not None:
        problem = (
            f"does not cover {name} of a client's examples, which the algorithm or the sampler wants without noise"
        )
        raise ConfigError("privacy", "example", problem, "use an algorithm and a sampler that do not need it")


def repeated_key(algorithm: str) -> ConfigError:
    """The error of two fits of a client with one key."""
    problem = (
        "trains a client twice in a round with the same `key`, so both fits have the same noise, which then cancels"
    )
    return ConfigError("algorithm", algorithm, problem, "give each call of fit its own key")
