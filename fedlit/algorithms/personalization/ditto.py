"""Ditto: beside the global model each client trains one of its own, held near to the global one.

Li, Hu, Beirami, Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021,
https://arxiv.org/abs/2012.04221, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedlit.algorithms.algorithm import Local, Shared
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.partial import check_personal_evaluation, load_model, save_model
from fedlit.core.errors import ConfigError, require
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import GradientTerm, Model, Update
from fedlit.core.tensors import Groups

PERSONAL_MODEL = "ditto"


@dataclass(frozen=True)
class Ditto(FedAvg):
    """FedAvg, and a client's own v_k minimises F_k(v) + pull / 2 * ||v - x||^2, with x the model that the client was sent.

    v_k begins as the model that the client is sent when it first takes part. Besides `pull` its arguments are those of
    `FedAvg`.

    Args:
        pull: lambda in the paper, >= 0; with 0 each client trains alone.
    """

    pull: float = 0.1

    def wrong(self) -> list[ConfigError | None]:
        """What is wrong with its arguments; None for what is right."""
        usual = "the paper tunes it between 0.05 and 2"
        fits = 0 <= self.pull < float("inf")
        return [*super().argument_errors(), require(fits, "pull", self.pull, "must be a number of at least 0", usual)]

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Something to see the personal models by."""
        yield from check_personal_evaluation(facts)

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """FedAvg's half, and a second fit of the client's own model."""
        x, update = self.model(shared), super().client(local, shared, memory)
        own = local.fit(load_model(memory, PERSONAL_MODEL) or x, GradientTerm(mu=self.pull, center=x.parameters), key=1)
        return replace(update, remember=save_model(own.model, PERSONAL_MODEL))

    def personal_model(self, local: Local, shared: Shared, memory: Groups) -> Model:
        """The client's own model; the global one before it has any."""
        return load_model(memory, PERSONAL_MODEL) or self.model(shared)
