"""The joints of the house: what an algorithm, a sampler, a data set, an executor and an observer look like."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from torch import nn

from fedlit.core.messages import Aggregate, ContrastiveTerm, FitResult, GradientTerm, Model, ServerState, Update
from fedlit.core.tensors import Groups, Tensors

Shared = Mapping[str, Model | Tensors]


class Local(Protocol):
    """What a client rule is handed: local training on this client's shard."""

    @property
    def examples(self) -> int:
        """Samples in the client's shard."""
        ...

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        epochs: int | None = None,
        key: int = 0,
    ) -> FitResult:
        """Trains from `model` with the client's own optimizer.

        Args:
            model: where training begins.
            terms: each is added to every gradient, or to every loss.
            only: names of the parameters that are trained; None for all.
            epochs: passes over the shard; None for what the schedule says.
            key: tells a further fit in the same round from the first: it has random numbers of its own, and what its module
                logs is not in the record.
        """
        ...

    def loss(self, model: Model) -> float:
        """Example-weighted mean of `training_step` over the shard, in eval mode, without augmentation."""
        ...

    def gradient(self, model: Model) -> Tensors:
        """Gradient of `loss` for each parameter."""
        ...


class Algorithm(Protocol):
    """A federated algorithm, the client's half and the server's in one place. Values in, values out.

    It may have more: `check(facts)`, its rules about other parts; `settled(module, initial)`, itself as it is for a module;
    `personal(local, shared, memory)`, the model that is evaluated on a client's own test samples; `metrics(state)`, figures
    for the record; and `pooled`, true if it trains on all samples in one place.
    """

    def init(self, model: Model) -> ServerState:
        """The state before round 1."""
        ...

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """What a client does with what it was sent and what it remembers: an empty mapping the first time."""
        ...

    def server(self, state: ServerState, mean: Aggregate) -> ServerState:
        """What the server does with the weighted mean of the updates."""
        ...

    def model(self, shared: Shared) -> Model:
        """The model that is evaluated and kept."""
        ...


def bind(algorithm: Algorithm, module: nn.Module, initial: Model) -> Algorithm:
    """The algorithm as it is for a module, where that makes a difference to it."""
    settle = getattr(algorithm, "settled", None)  # most algorithms take any module as it is
    return algorithm if settle is None else settle(module, initial)


def personal_model(algorithm: Algorithm, local: Local, shared: Shared, memory: Groups) -> Model:
    """The model that a client uses: its own where the algorithm makes one, otherwise the global one."""
    personal = getattr(algorithm, "personal", None)
    return algorithm.model(shared) if personal is None else personal(local, shared, memory)
