"""Parts of the model that stay with each client, round any algorithm for the rest.

Layers for normalisation: FedBN, Li, Jiang, Zhang, Kamp, Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", ICLR 2021, https://arxiv.org/abs/2102.07623. The last layer: FedPer, Arivazhagan, Aggarwal, Singh, Choudhary,
"Federated Learning with Personalization Layers", 2019, https://arxiv.org/abs/1912.00818. All of it: clients that train alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from fedlit.algorithms.algorithm import Algorithm, Local, Shared, bind, personal_model
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.layers import last_layer, names_in_layers, norm_layers
from fedlit.core.errors import ConfigError, raise_errors, require, require_choice
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Aggregate, ContrastiveTerm, FitResult, GradientTerm, Model, ServerState, Update
from fedlit.core.tensors import Groups, Tensors

PERSONAL_PREFIX = "personal"
"""Beginning of the names of groups in a client's memory that are its part of the model."""


@dataclass(frozen=True)
class PersonalLayers:
    """What is kept is neither sent nor averaged; the rest is the inner algorithm's. A client begins with the initial values.

    The personal model is evaluated on each client's own test samples. The one on the server's splits has the initial values in
    the place of what is kept.

    Args:
        inner: the algorithm for what is shared.
        layers: which layers are kept: `norm`, the `last` one that has parameters, `all`, or `none` but those in `names`.
        names: patterns of names of parameters and buffers that are kept, `*` for anything: `network.head.*`.
        initial: the model before round 1; None until `settled`.
    """

    inner: Algorithm = field(default_factory=FedAvg)
    layers: Literal["norm", "last", "all", "none"] = "norm"
    names: Sequence[str] = ()
    initial: Model | None = None
    personal_names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        raise_errors(*self.argument_errors())

    def argument_errors(self) -> list[ConfigError | None]:
        """What is wrong with its arguments; None for what is right."""
        some, remedy = self.layers != "none" or bool(self.names), "name some, or take layers=norm, last or all"
        return [
            require_choice("layers", self.layers, ["norm", "last", "all", "none"]),
            require(some, "names", list(self.names), "keeps nothing", remedy),
        ]

    def bind(self, module: nn.Module, initial: Model) -> PersonalLayers:
        """With the names that are kept of this module.

        Raises:
            Mistake: if there are none.
        """
        every = list(initial.state_dict())
        kept = set(every if self.layers == "all" else names_in_layers(every, self._layers(module)))
        for pattern in self.names:
            if not (matching := [name for name in every if fnmatchcase(name, pattern)]):
                why = f"matches none of {', '.join(every[:4])}{', ...' if len(every) > 4 else ''}"
                raise ConfigError("names", pattern, why, "it is a pattern of whole names, * for anything")
            kept |= set(matching)
        if not kept:
            why = f"keeps nothing: {type(module).__name__} has no layer for normalisation"
            remedy = "take a model that has, such as model.norm=batch, or another algorithm"
            raise ConfigError("layers", self.layers, why, remedy)
        return replace(self, inner=bind(self.inner, module, initial), initial=initial, personal_names=frozenset(kept))

    def _layers(self, module: nn.Module) -> list[str]:
        if self.layers == "last":
            return [last_layer(module)[0]]
        return norm_layers(module) if self.layers == "norm" else []

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """The inner algorithm's rules, and something to see the personal models by."""
        inner = getattr(self.inner, "check", None)
        yield from inner(facts) if inner is not None else ()
        yield from check_personal_evaluation(facts)

    def init(self, model: Model) -> ServerState:
        """The inner algorithm's, of the part that is shared."""
        return self.inner.init(select(model, self._shared))

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """The inner algorithm's half, with the client's own part in every model that it trains."""
        hands = self.make_local(local, memory)
        update = self.inner.client(hands, shared, without_personal(memory))
        return replace(update, remember={**update.client_state, **save_model(hands.own)})

    def make_local(self, local: Local, memory: Groups) -> PersonalLocal:
        """What the inner algorithm trains by."""
        return PersonalLocal(local, load_model(memory) or select(self._start, self.personal_names), self._start)

    def server(self, state: ServerState, mean: Aggregate) -> ServerState:
        """The inner algorithm's."""
        return self.inner.server(state, mean)

    def model(self, shared: Shared) -> Model:
        """The shared part with the initial values of what is kept."""
        return self.inner.model(shared).fill_from(self._start)

    def personal_model(self, local: Local, shared: Shared, memory: Groups) -> Model:
        """The shared part with the client's own."""
        hands = self.make_local(local, memory)
        return personal_model(self.inner, hands, shared, without_personal(memory)).fill_from(hands.full_model)

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """The inner algorithm's."""
        inner = getattr(self.inner, "metrics", None)
        return inner(state) if inner is not None else {}

    @property
    def _start(self) -> Model:
        if self.initial is None:
            raise ValueError("Personal is to be settled on a module first: see Federation.of")
        return self.initial

    @property
    def _shared(self) -> frozenset[str]:
        return frozenset(self._start.state_dict()) - self.personal_names


@dataclass
class PersonalLocal:
    """A client's hands that complete what they are given by the client's own part, and show the shared part of what comes out.

    Args:
        local: the client's own.
        own: its part of the model, as it is now.
        start: a model with all names, in their order.
    """

    local: Local
    own: Model
    start: Model

    @property
    def examples(self) -> int:
        """Samples in the client's shard."""
        return self.local.examples

    @property
    def full_model(self) -> Model:
        """The client's own part in a model with all names."""
        return self.own.fill_from(self.start)

    def fit(self, model: Model, *terms: GradientTerm | ContrastiveTerm, **more: Any) -> FitResult:
        """Trains both parts."""
        return self.split_result(self.local.fit(model.fill_from(self.full_model), *terms, **more), model)

    def split_result(self, fit: FitResult, model: Model) -> FitResult:
        """The fit of the shared part, the rest being kept."""
        self.own = select(fit.model, self.own.state_dict())
        return replace(fit, model=select(fit.model, model.state_dict()))

    def loss(self, model: Model) -> float:
        """With the own part."""
        return self.local.loss(model.fill_from(self.full_model))

    def gradient(self, model: Model) -> Tensors:
        """Of the shared part."""
        gradient = self.local.gradient(model.fill_from(self.full_model))
        return {name: gradient[name] for name in model.parameters}


def check_personal_evaluation(facts: FederationFacts) -> Iterator[ConfigError]:
    """Warnings where a personal model is not seen, or a round is chosen by another."""
    if not facts.has_client_tests:
        why = "trains personal models, and no client has test samples of its own: the global model alone is evaluated"
        yield ConfigError("data.client_test_fraction", 0.0, why, "0.2 holds out a fifth of each shard", warning=True)
    if "val" in facts.splits:
        why = "chooses the best round by the global model, not by the personal ones"
        yield ConfigError("data.val_fraction", "", why, "0: the last round is what counts", warning=True)


def select(model: Model, names: Collection[str]) -> Model:
    """The part of a model that has these names."""
    return Model(*({name: t for name, t in tensors.items() if name in names} for tensors in model.groups().values()))


def save_model(model: Model, whose: str = PERSONAL_PREFIX) -> dict[str, Tensors]:
    """A model as groups of a client's memory."""
    return {f"{whose}/{group}": tensors for group, tensors in model.groups().items()}


def load_model(memory: Groups, whose: str = PERSONAL_PREFIX) -> Model | None:
    """The model in a client's memory."""
    if f"{whose}/parameters" not in memory:
        return None
    return Model(memory[f"{whose}/parameters"], memory[f"{whose}/buffers"])


def without_personal(memory: Groups) -> Groups:
    """The rest of a client's memory."""
    return {group: tensors for group, tensors in memory.items() if not group.startswith(f"{PERSONAL_PREFIX}/")}
