"""The joint between a federated algorithm and the rest: `Algorithm`, and the local training that it is handed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from fedlit.core.errors import ConfigError
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors, zeros_like


class Local(Protocol):
    """Local training on one client's shard, as a client rule receives it."""

    @property
    def examples(self) -> int:
        """Number of examples in the client's shard."""
        ...

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        epochs: int | None = None,
        key: int = 0,
    ) -> FitResult:
        """Train from `model` with the client's own optimizer.

        Args:
            model: start of the training.
            terms: terms that are added to every gradient, or to every loss.
            only: names of the parameters that are trained; None for all.
            epochs: passes over the shard; None for the schedule's local work.
            key: 0 for the first fit of a round. A further fit takes another key: it has random numbers of its own, and its
                logged metrics are not in the record.
        """
        ...

    def loss(self, model: Model) -> float:
        """Mean of `training_step` over the shard, weighted by examples, in eval mode, without augmentation."""
        ...

    def gradient(self, model: Model) -> Tensors:
        """Gradient of `loss` for each parameter."""
        ...


class Algorithm(ABC):
    """A federated algorithm: the client's half and the server's half. Values in, values out.

    Four methods are abstract. The others have defaults that suit most algorithms.
    """

    @abstractmethod
    def init(self, model: Model) -> ServerState:
        """Make the server state before round 1."""

    @abstractmethod
    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Train on one client.

        Args:
            local: local training on the client's shard.
            shared: the part of the server state that the client receives.
            client_state: state that this client returned last; empty in its first round.
        """

    @abstractmethod
    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Update the server state by the weighted mean of the clients' updates."""

    @abstractmethod
    def model(self, shared: Shared) -> Model:
        """The model that is evaluated and saved."""

    @property
    def personalized(self) -> bool:
        """True if each client evaluates a model of its own; the default is False."""
        return False

    @property
    def pooled(self) -> bool:
        """True if one client trains on the examples of all clients; the default is False."""
        return False

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    def bind(self, module: nn.Module, model: Model) -> Algorithm:
        """The algorithm for one module and its initial model; by default the same algorithm.

        Raises:
            ConfigError: if the algorithm does not suit the module.
        """
        return self

    def personal_model(self, local: Local, shared: Shared, client_state: Groups) -> Model:
        """The model that one client evaluates on its own test set; by default the global model."""
        return self.model(shared)

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """Figures of the algorithm for the round's record; none by default."""
        return {}


@dataclass(frozen=True)
class NoExamples:
    """Local training of a client without examples: it takes no step."""

    examples: int = 0

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        epochs: int | None = None,
        key: int = 0,
    ) -> FitResult:
        """Return `model` after 0 steps."""
        return FitResult(model, steps=0, examples=0, metrics={})

    def loss(self, model: Model) -> float:
        """Return 0."""
        return 0.0

    def gradient(self, model: Model) -> dict[str, torch.Tensor]:
        """Return zeros."""
        return zeros_like(model.parameters)


def update_template(algorithm: Algorithm, shared: Shared) -> Groups:
    """Groups of tensors with the names, shapes and dtypes that each update of a round must have."""
    return algorithm.client(NoExamples(), shared, {}).groups
