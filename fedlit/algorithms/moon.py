"""Model-contrastive learning: a client's features are held near the global model's and away from those that it had before.

Li, He, Song, "Model-Contrastive Federated Learning", CVPR 2021, https://arxiv.org/abs/2103.16257.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlit.algorithms.algorithm import Local, Shared
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.partial import load_model, save_model
from fedlit.core.errors import ConfigError, require, require_positive
from fedlit.core.messages import ContrastiveTerm, Update
from fedlit.core.tensors import Groups

PREVIOUS = "before"


@dataclass(frozen=True)
class Moon(FedAvg):
    """FedAvg whose clients add mu times a contrast to their loss: see `Contrast`. Both models that it looks at are frozen and
    in eval mode; a client that takes part for the first time has none from before, and adds nothing.

    Besides these its arguments are those of `FedAvg`.

    Args:
        mu: weight of the contrast, > 0; the paper tries 0.1, 1, 5 and 10.
        temperature: > 0.
        layer: path of the layer whose output are the features, the projection head's in the paper; None for what the last layer
            takes in.
    """

    mu: float = 1.0
    temperature: float = 0.5
    layer: str | None = None

    def wrong(self) -> list[ConfigError | None]:
        """What is wrong with its arguments; None for what is right."""
        return [
            *super().argument_errors(),
            require_positive("mu", self.mu, "algorithm=fedavg is without the contrast"),
            require_positive("temperature", self.temperature),
            require(self.layer != "", "layer", "''", "names no layer", "null is what the last layer takes in"),
        ]

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """Trains with the contrast, and remembers what came out."""
        x = self.model(shared)
        y = local.fit(
            x, *self.terms(x), ContrastiveTerm(self.mu, self.temperature, x, load_model(memory, PREVIOUS), self.layer)
        )
        remember = save_model(y.model, PREVIOUS) if y.steps else memory
        return Update(y.delta(x, buffers=self.buffers == "mean"), self.weight(y), remember)
