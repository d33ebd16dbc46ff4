"""Model-contrastive learning: a contrastive loss on the features of local models.

Li, He, Song, "Model-Contrastive Federated Learning", CVPR 2021, https://arxiv.org/abs/2103.16257.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.client_state import load_model, save_model
from fedlit.core.errors import ConfigError, require, require_positive
from fedlit.core.messages import Shared, Update
from fedlit.core.model import ContrastiveTerm
from fedlit.core.tensors import Groups

PREVIOUS = "before"
"""Prefix of the client's previous model in its client state."""


@dataclass(frozen=True)
class Moon(FedAvg):
    """FedAvg with mu times a contrastive loss added to the clients' loss.

    The global model's features attract those of the trained model, and the features of the client's previous model repel them:
    see `ContrastiveTerm`. Both models are frozen and in eval mode. A client has no previous model in its first round and adds
    nothing. The other arguments are those of `FedAvg`.

    Args:
        mu: weight of the contrastive loss, > 0; the paper tries 0.1, 1, 5 and 10.
        temperature: temperature of the contrastive loss, > 0.
        layer: path of the layer whose output is the features, the projection head in the paper; None for the last layer's
            input.
    """

    mu: float = 1.0
    temperature: float = 0.5
    layer: str | None = None

    def argument_errors(self) -> list[ConfigError | None]:
        """Errors in the arguments; None for a valid argument."""
        return [
            *super().argument_errors(),
            require_positive("mu", self.mu, "algorithm=fedavg trains without the contrastive loss"),
            require_positive("temperature", self.temperature),
            require(self.layer != "", "layer", "''", "names no layer", "null is the input of the last layer"),
        ]

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Train with the contrastive loss; keep the trained model as client state."""
        x, previous = self.model(shared), load_model(client_state, PREVIOUS)
        y = local.fit(x, *self.terms(x), ContrastiveTerm(self.mu, self.temperature, x, previous, self.layer))
        new_state = save_model(y.model, PREVIOUS) if y.steps else client_state
        return Update(y.delta(x, buffers=self.buffers == "mean"), self.weight(y), new_state)
