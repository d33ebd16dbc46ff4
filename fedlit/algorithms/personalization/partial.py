"""Parts of the model that stay with each client, around any algorithm for the rest.

Normalisation layers: FedBN, Li, Jiang, Zhang, Kamp, Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", ICLR 2021, https://arxiv.org/abs/2102.07623. The last layer: FedPer, Arivazhagan, Aggarwal, Singh, Choudhary,
"Federated Learning with Personalization Layers", 2019, https://arxiv.org/abs/1912.00818. All layers: clients train alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from fedlit.algorithms.algorithm import Algorithm, Local
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.layers import last_layer, names_in_layers, norm_layers
from fedlit.core.errors import ConfigError, raise_errors, require, require_choice
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors

PERSONAL_PREFIX = "personal"
"""Prefix of the groups in a client state that hold the client's own part of the model."""

INNER_PREFIX = f"{PERSONAL_PREFIX}/inner"
"""Prefix of the inner algorithm's groups whose own names begin with PERSONAL_PREFIX."""


@dataclass(frozen=True)
class PersonalLayers(Algorithm):
    """Personal layers are neither sent nor averaged; the rest is the inner algorithm's.

    A client starts with the initial values of its layers. The personal model is evaluated on each client's own test set. The
    model on the server's splits has the initial values in the personal layers.

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
            require_choice("layers", self.layers, ["norm", "last", "all", "none"]),
            require(any_layer, "names", list(self.names), "leaves no personal layer", hint),
        ]

    @property
    def personalized(self) -> bool:
        """True: each client evaluates a model of its own."""
        return True

    @property
    def pooled(self) -> bool:
        """The inner algorithm's value."""
        return self.inner.pooled

    def bind(self, module: nn.Module, model: Model) -> PersonalLayers:
        """Find the personal names of a module, and bind the inner algorithm to the rest.

        Raises:
            ConfigError: if no name is personal.
        """
        every = list(model.state_dict())
        personal = set(every if self.layers == "all" else names_in_layers(every, self._layers(module)))
        for pattern in self.names:
            if not (matching := [name for name in every if fnmatchcase(name, pattern)]):
                problem = f"matches none of {', '.join(every[:4])}{', ...' if len(every) > 4 else ''}"
                raise ConfigError("names", pattern, problem, "give a pattern of whole names, with * for anything")
            personal |= set(matching)
        if not personal:
            problem = f"leaves no personal layer: {type(module).__name__} has no normalisation layer"
            hint = "take a model that has one, such as model.norm=batch, or another algorithm"
            raise ConfigError("layers", self.layers, problem, hint)
        inner = self.inner.bind(module, select(model, set(every) - personal))
        return replace(self, inner=inner, initial=model, personal_names=frozenset(personal))

    def _layers(self, module: nn.Module) -> list[str]:
        if self.layers == "last":
            return [last_layer(module)[0]]
        return norm_layers(module) if self.layers == "norm" else []

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """The inner algorithm's errors, and errors of personal evaluation."""
        if self.pooled:
            problem = f"trains one client on all examples, so no layer of {type(self).__name__} can be personal"
            yield ConfigError("algorithm.inner", type(self.inner).__name__, problem, "take another inner algorithm")
        yield from self.inner.check(facts)
        yield from check_personal_evaluation(facts)

    def init(self, model: Model) -> ServerState:
        """The inner algorithm's state for the shared part."""
        return self.inner.init(select(model, self._shared))

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Run the inner algorithm, with the client's own part in every model that it trains."""
        personal = self.make_local(local, client_state)
        update = self.inner.client(personal, shared, inner_state(client_state))
        return replace(update, client_state={**nest_inner(update.client_state), **save_model(personal.own)})

    def make_local(self, local: Local, client_state: Groups) -> PersonalLocal:
        """The local training that the inner algorithm receives."""
        own = load_model(client_state) or select(self._start, self.personal_names)
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
    """Local training that adds the client's own layers to a model, and takes them out of the result.

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
    def full_model(self) -> Model:
        """The client's own part in a model with all names."""
        return self.own.fill_from(self.start)

    def fit(self, model: Model, *terms: GradientTerm | ContrastiveTerm, **options: Any) -> FitResult:
        """Train both parts."""
        return self.split_result(self.local.fit(model.fill_from(self.full_model), *terms, **options), model)

    def split_result(self, result: FitResult, model: Model) -> FitResult:
        """Keep the client's own part of a result, and return the result of the shared part."""
        self.own = select(result.model, self.own.state_dict())
        return replace(result, model=select(result.model, model.state_dict()))

    def loss(self, model: Model) -> float:
        """The loss of the model with the client's own part."""
        return self.local.loss(model.fill_from(self.full_model))

    def gradient(self, model: Model) -> Tensors:
        """The gradient of the shared part."""
        gradient = self.local.gradient(model.fill_from(self.full_model))
        return {name: gradient[name] for name in model.parameters}


def check_personal_evaluation(facts: FederationFacts) -> Iterator[ConfigError]:
    """Yield warnings if personal models are not evaluated, or do not choose the best round."""
    if not facts.has_client_tests:
        problem = (
            "leaves the clients without own test sets: personal models are trained, and only the global one evaluated"
        )
        yield ConfigError(
            "data.client_test_fraction", 0.0, problem, "0.2 holds out a fifth of each shard", warning=True
        )
    if "val" in facts.splits:
        problem = "chooses the best round by the global model, not by the personal models"
        yield ConfigError("data.val_fraction", "", problem, "with 0 the last round counts", warning=True)


def select(model: Model, names: Collection[str]) -> Model:
    """The part of a model that has these names."""
    return Model(*({name: t for name, t in tensors.items() if name in names} for tensors in model.groups().values()))


def save_model(model: Model, prefix: str = PERSONAL_PREFIX) -> dict[str, Tensors]:
    """A model as groups of a client state."""
    return {f"{prefix}/{group}": tensors for group, tensors in model.groups().items()}


def load_model(client_state: Groups, prefix: str = PERSONAL_PREFIX) -> Model | None:
    """The model that `save_model` wrote; None if there is none."""
    if f"{prefix}/parameters" not in client_state:
        return None
    return Model(client_state[f"{prefix}/parameters"], client_state[f"{prefix}/buffers"])


def nest_inner(client_state: Groups) -> dict[str, Tensors]:
    """The inner algorithm's client state under names that do not collide with those of its wrapper."""
    prefix = f"{PERSONAL_PREFIX}/"
    return {f"{INNER_PREFIX}/{g}" if g.startswith(prefix) else g: tensors for g, tensors in client_state.items()}


def inner_state(client_state: Groups) -> dict[str, Tensors]:
    """The inner algorithm's client state, as `nest_inner` got it."""
    own = (f"{PERSONAL_PREFIX}/parameters", f"{PERSONAL_PREFIX}/buffers")
    prefix = f"{INNER_PREFIX}/"
    return {group.removeprefix(prefix): tensors for group, tensors in client_state.items() if group not in own}
