"""The joint for algorithms: `Algorithm`, and the local training that it receives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedlit.core.errors import ConfigError, raise_errors, require
from fedlit.core.facts import FederationFacts, Weighting
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors, zeros_like

if TYPE_CHECKING:
    from torch import Tensor, nn


class Local(Protocol):
    """Local training on one client's shard, as a client rule receives it."""

    @property
    def examples(self) -> int:
        """Number of examples in the client's shard."""
        ...

    @property
    def lr_factor(self) -> float:
        """Factor of `schedule.lr` on the learning rates in this round."""
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
            key: 0 for the first fit of a round. A further fit takes another key: it has its own random numbers, and its logged
                metrics are not in the record.
        """
        ...

    def loss(self, model: Model) -> float:
        """Mean of `training_step` over the shard, weighted by examples.

        It is measured in eval mode and without augmentation.
        """
        ...

    def gradient(self, model: Model) -> Tensors:
        """Gradient of `loss` for each parameter."""
        ...


class Algorithm(ABC):
    """A federated algorithm: the client's half and the server's half.

    Methods take values and return values; they change nothing. Four methods are abstract. The others have defaults that suit
    most algorithms.
    """

    @abstractmethod
    def init(self, model: Model) -> ServerState:
        """Make the server state before round 1."""

    @abstractmethod
    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Train on one client.

        A client that trains in a stack, or is tried again after a failure, runs this method more than once in a round.

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
        """True if each client evaluates its own model; by default False."""
        return False

    @property
    def pooled(self) -> bool:
        """True if one client trains on all examples; by default False."""
        return False

    @property
    def weighting(self) -> Weighting:
        """The kind of the clients' weights; by default `unknown`.

        `equal`: a client that took a step has weight 1, any other has weight 0.
        """
        return "unknown"

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """Errors and warnings about the rest of the federation; none by default."""
        return ()

    def bind(self, module: nn.Module, model: Model) -> Algorithm:
        """The algorithm for one module; by default the same algorithm.

        Args:
            module: the module that clients train.
            model: the module's initial weights.

        Raises:
            ConfigError: if the algorithm does not suit the module.
        """
        return self

    def personal_model(self, local: Local, shared: Shared, client_state: Groups) -> Model:
        """The model of one client's own evaluation; by default the global model.

        Args:
            local: local training on the client's shard.
            shared: the part of the server state that the client receives.
            client_state: state that this client returned last; empty if it never took part.
        """
        return self.model(shared)

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """Figures of the algorithm for the round's record; none by default."""
        return {}


def algorithm_error(key: str, value: object) -> ConfigError | None:
    """Return an error unless the value is an algorithm."""
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    hint = "give an instance of a subclass of fedlit.Algorithm"
    return require(isinstance(value, Algorithm), key, name, "is not an Algorithm", hint)


def as_algorithm(value: Algorithm) -> Algorithm:
    """Return an algorithm as it is.

    Raises:
        ConfigError: if the value is not an algorithm.
    """
    raise_errors(algorithm_error("algorithm", value))
    return value


@dataclass(frozen=True)
class NoExamples:
    """Local training of a client without examples: it takes no step."""

    examples: int = 0
    lr_factor: float = 1.0

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

    def gradient(self, model: Model) -> dict[str, Tensor]:
        """Return zeros."""
        return zeros_like(model.parameters)


def update_template(algorithm: Algorithm, shared: Shared) -> Groups:
    """The groups of an update without a step.

    Each update of the round must have the same names, shapes and dtypes.
    """
    return algorithm.client(NoExamples(), shared, {}).groups
