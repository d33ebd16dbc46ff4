"""Personal layers, which stay with each client, around any algorithm.

Normalisation layers: FedBN, Li, Jiang, Zhang, Kamp, Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", ICLR 2021, https://arxiv.org/abs/2102.07623. The last layer: FedPer, Arivazhagan, Aggarwal, Singh, Choudhary,
"Federated Learning with Personalization Layers", 2019, https://arxiv.org/abs/1912.00818. All layers: clients train alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from fedlit.algorithms.algorithm import Algorithm, Local, algorithm_error
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.client_state import (
    inner_state,
    load_model,
    nest_inner,
    restrict_model,
    save_model,
)
from fedlit.core.errors import ConfigError, ConfigErrors, raise_errors, require, require_choice
from fedlit.core.facts import FederationFacts, Weighting
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PersonalLayers(Algorithm):
    """Keep some layers with each client; the inner algorithm trains the rest.

    Personal layers are neither sent nor averaged, and each local training of a client trains them too. A client starts
    with their initial values. The personal model is evaluated on each client's own test set. The model on the server's splits
    has the initial values in the personal layers.

    Args:
        inner: the algorithm for the shared part.
        layers: personal layers: `norm`, the `last` one that has parameters, `all`, or `none` but those in `names`.
        names: patterns of names of personal parameters and buffers, with `*` for anything: `network.head.*`.
        initial: the model before round 1; `bind` sets it.
        personal_names: names of the personal parameters and buffers; `bind` sets them.
    """

    inner: Algorithm = field(default_factory=FedAvg)
    layers: Literal["norm", "last", "all", "none"] = "norm"
    names: Sequence[str] = ()
    initial: Model | None = None
    personal_names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        raise_errors(*self.argument_errors())

    def argument_errors(self) -> list[ConfigError | None]:
        """Errors in the arguments; None for a valid argument."""
        any_layer, hint = self.layers != "none" or bool(self.names), "give names, or layers=norm, last or all"
        return [
            self._inner_error(),
            require_choice("layers", self.layers, ["norm", "last", "all", "none"]),
            require(any_layer, "names", list(self.names), "leaves no personal layer", hint),
        ]

    def _inner_error(self) -> ConfigError | None:
        if error := algorithm_error("inner", self.inner):
            return error
        name, hint = type(self.inner).__name__, "take another inner algorithm"
        problem = f"trains one client on all examples, so no layer of {type(self).__name__} can be personal"
        return require(not self.inner.pooled, "inner", name, problem, hint)

    @property
    def personalized(self) -> bool:
        """True: each client evaluates its own model."""
        return True

    @property
    def pooled(self) -> bool:
        """The inner algorithm's value: False, since a pooled one is refused."""
        return self.inner.pooled

    @property
    def weighting(self) -> Weighting:
        """The inner algorithm's value."""
        return self.inner.weighting

    def bind(self, module: nn.Module, model: Model) -> PersonalLayers:
        """Find the personal names, and bind the inner algorithm to the rest.

        Raises:
            ConfigError: if the names cannot be split into personal and shared ones: see `select_personal`.
        """
        from fedlit.algorithms.personalization.selection import select_personal  # here: it needs torch

        personal = select_personal(module, model, self.layers, self.names)
        try:
            inner = self.inner.bind(module, restrict_model(model, model.state_dict().keys() - personal))
        except (ConfigError, ConfigErrors) as error:
            raise error.prefixed("inner") from error
        return replace(self, inner=inner, initial=model, personal_names=personal)

    def check(self, facts: FederationFacts) -> Iterable[ConfigError]:
        """The inner algorithm's errors, and warnings about personal evaluation."""
        errors = (*self.inner.check(facts), *check_personal_evaluation(facts))
        return {str(error): error for error in errors}.values()  # an inner algorithm may be personalized too

    def init(self, model: Model) -> ServerState:
        """The inner algorithm's state for the shared part."""
        return self.inner.init(restrict_model(model, self._shared))

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Run the inner algorithm on models that have the client's own part."""
        personal = self.make_local(local, client_state)
        update = self.inner.client(personal, shared, inner_state(client_state))
        return replace(update, client_state={**nest_inner(update.client_state), **save_model(personal.own)})

    def make_local(self, local: Local, client_state: Groups) -> PersonalLocal:
        """The local training that the inner algorithm receives."""
        own = load_model(client_state) or restrict_model(self._start, self.personal_names)
        return PersonalLocal(local, own, self._start)

    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Run the inner algorithm's server half."""
        return self.inner.server(state, aggregate)

    def model(self, shared: Shared) -> Model:
        """The shared part, with the initial values of the personal layers."""
        return self.inner.model(shared).fill_from(self._start)

    def personal_model(self, local: Local, shared: Shared, client_state: Groups) -> Model:
        """The inner algorithm's model for this client, with the client's own layers."""
        personal = self.make_local(local, client_state)
        return self.inner.personal_model(personal, shared, inner_state(client_state)).fill_from(personal.full_model)

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """The inner algorithm's figures."""
        return self.inner.metrics(state)

    @property
    def _start(self) -> Model:
        if self.initial is None:
            raise ValueError(f"{type(self).__name__} must be bound to a module first: Federation.of does that")
        return self.initial

    @property
    def _shared(self) -> frozenset[str]:
        return frozenset(self._start.state_dict()) - self.personal_names


@dataclass
class PersonalLocal:
    """Local training of models without the client's own layers.

    It adds the own layers to a model before each fit, and takes them out of the result.

    Args:
        local: the client's local training.
        own: the client's own part of the model; each fit replaces it.
        start: a model with all names, in their order.
    """

    local: Local
    own: Model
    start: Model

    @property
    def examples(self) -> int:
        """Number of examples in the client's shard."""
        return self.local.examples

    @property
    def lr_factor(self) -> float:
        """Factor of `schedule.lr` on the learning rates in this round."""
        return self.local.lr_factor

    @property
    def full_model(self) -> Model:
        """The client's own part in a model with all names."""
        return self.own.fill_from(self.start)

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        **options: Any,
    ) -> FitResult:
        """Train both parts; `only` restricts the shared part."""
        only = None if only is None else {*only, *self.own.parameters}
        result = self.local.fit(model.fill_from(self.full_model), *terms, only=only, **options)
        return self.split_result(result, model)

    def split_result(self, result: FitResult, model: Model) -> FitResult:
        """Store the client's own part of a result, and return the rest.

        Args:
            result: result of a fit of both parts.
            model: a model with the names of the shared part.
        """
        self.own = restrict_model(result.model, self.own.state_dict())
        return replace(result, model=restrict_model(result.model, model.state_dict()))

    def loss(self, model: Model) -> float:
        """The loss of the model with the client's own part."""
        return self.local.loss(model.fill_from(self.full_model))

    def gradient(self, model: Model) -> Tensors:
        """The gradient of the shared part."""
        gradient = self.local.gradient(model.fill_from(self.full_model))
        return {name: gradient[name] for name in model.parameters}


def check_personal_evaluation(facts: FederationFacts) -> Iterator[ConfigError]:
    """Yield warnings if personal models go unevaluated or choose no round."""
    if not facts.has_client_tests:
        problem = "leaves the clients without own test sets: only the global model is evaluated, not the personal ones"
        yield ConfigError(
            "data.client_test_fraction", 0.0, problem, "0.2 holds out a fifth of each shard", warning=True
        )
    if "val" in facts.splits:
        problem = "chooses the best round by the global model, not by the personal models"
        yield ConfigError("data.val_fraction", "", problem, "with 0 the last round counts", warning=True)
