"""One call of `fit` by a client rule, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fedlit.client.dp_sgd.private_fit import PrivateFit
from fedlit.client.module.replica import ModuleReplica
from fedlit.core.model import ContrastiveTerm, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors
from fedlit.data.client_data import ClientData
from fedlit.data.protocols import Batches

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class FitCall:
    """One call of `fit` by a client rule.

    Args:
        replica: the worker's module.
        config: the settings of the client's Trainer, a `TrainerConfig`.
        data: the data of the federation.
        round, client, key: keys of the fit's random numbers.
        model: start of the training.
        gradient_terms, contrasts: terms of the algorithm.
        only: names of the parameters that are trained; None for all.
        epochs: passes over the shard; None for the configured work.
        budget: optimizer steps after which the fit ends; None for no budget.
        batches: the client's batches.
        lr_factor: factor on the learning rates; None if they follow no schedule over rounds.
        client_state: groups with the optimizer state to start from; None if the optimizer starts fresh and is not kept.
        guards_weights: True to refuse a displacement if weights change outside of optimizer steps, which takes time.
        private: DP-SGD of the fit; None without privacy.
    """

    replica: ModuleReplica
    config: Any
    data: ClientData
    round: int
    client: int
    key: int
    model: Model
    gradient_terms: tuple[GradientTerm, ...]
    contrasts: tuple[ContrastiveTerm, ...]
    only: frozenset[str] | None
    epochs: int | None
    budget: int | None
    batches: Batches
    lr_factor: float | None
    client_state: Groups | None
    guards_weights: bool = False
    private: PrivateFit | None = None


@dataclass(frozen=True)
class FitOutcome:
    """The result of one fit.

    Args:
        model: the model after the last step.
        steps: number of optimizer steps.
        metrics: logged metrics, as a Trainer's `callback_metrics`.
        displacement_fn: computes the displacement; see `FitResult`.
        optimizer_state: groups that the fit adds to the client state.
    """

    model: Model
    steps: int
    metrics: Mapping[str, float]
    displacement_fn: Callable[[], Mapping[str, float]]
    optimizer_state: Mapping[str, Tensors] = field(default_factory=dict)


class LocalWork(Protocol):
    """The place where a client's fits and measurements run."""

    def batches(self, key: int, make: Callable[[], Batches]) -> Batches:
        """Return the batches of the next fit.

        Args:
            key: the key of the fit.
            make: makes them, if there are none yet.
        """
        ...

    def fit(self, call: FitCall) -> FitOutcome:
        """Train a client."""
        ...

    def measure(self, function: Callable[[], T]) -> T:
        """Return the result of a function that uses the worker's module."""
        ...
