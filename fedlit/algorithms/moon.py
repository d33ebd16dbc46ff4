"""Model-contrastive learning: a contrastive loss on the features of local models.

Li, He, Song, "Model-Contrastive Federated Learning", CVPR 2021, https://arxiv.org/abs/2103.16257.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.client_state import load_model, save_model
from fedlit.core.errors import ConfigError, require, require_choice, require_positive
from fedlit.core.messages import Shared, Update
from fedlit.core.model import ContrastiveTerm, Model
from fedlit.core.tensors import Groups

if TYPE_CHECKING:
    from torch import nn

PREVIOUS = "before"
"""Prefix of the client's previous model in its client state."""


@dataclass(frozen=True)
class Moon(FedAvg):
    """FedAvg with mu times a contrastive loss added to the clients' loss.

    The global model's features attract those of the trained model, and the features of the client's previous model repel them:
    see `ContrastiveTerm`. Both models are frozen and in eval mode. The previous model of a client is the one that it trained
    last. Before its first training it is the model before round 1, as in Algorithm 1; while the global model is that model too,
    the gradient of the contrastive loss is 0, and it is left out. The other arguments are those of `FedAvg`.

    Args:
        mu: weight of the contrastive loss, > 0; the paper tries 0.1, 1, 5 and 10.
        temperature: temperature of the contrastive loss, > 0.
        layer: path of the layer whose output is the features, the projection head in the paper; None for the last layer's
            input.
        first: previous model of a client that has not trained yet: `initial`, or `none` for no contrastive loss.
        initial: the model before round 1; `bind` sets it.
    """

    mu: float = 1.0
    temperature: float = 0.5
    layer: str | None = None
    first: Literal["initial", "none"] = "initial"
    initial: Model | None = None

    def argument_errors(self) -> list[ConfigError | None]:
        """Errors in the arguments; None for a valid argument."""
        return [
            *super().argument_errors(),
            require_positive("mu", self.mu, "algorithm=fedavg trains without the contrastive loss"),
            require_positive("temperature", self.temperature),
            require(self.layer != "", "layer", "''", "names no layer", "null is the input of the last layer"),
            require_choice("first", self.first, ["initial", "none"]),
        ]

    def bind(self, module: nn.Module, model: Model) -> Moon:
        """Keep the initial weights, the first previous model of each client."""
        return replace(self, initial=model) if self.first == "initial" else self

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Train with the contrastive loss; keep the trained model as client state."""
        x = self.model(shared)
        previous = load_model(client_state, PREVIOUS) or self._first_previous(x)
        y = local.fit(x, *self.terms(x), ContrastiveTerm(self.mu, self.temperature, x, previous, self.layer))
        new_state = save_model(y.model, PREVIOUS) if y.steps else client_state
        return Update(y.delta(x, buffers=self.buffers == "mean"), self.weight(y), new_state)

    def _first_previous(self, x: Model) -> Model | None:
        """The previous model of a client that has not trained yet."""
        if self.first == "none":
            return None
        if self.initial is None:
            raise ValueError("Moon must be bound to a module first: Federation.of does that")
        return None if x.equals(self.initial) else self.initial
