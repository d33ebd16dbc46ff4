"""Ditto: each client also trains its own model, near the global one.

Li, Hu, Beirami, Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021,
https://arxiv.org/abs/2012.04221, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.client_state import load_model, save_model
from fedlit.algorithms.personalization.partial import check_personal_evaluation
from fedlit.core.errors import ConfigError, require
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Shared, Update
from fedlit.core.model import GradientTerm, Model
from fedlit.core.tensors import Groups

PERSONAL_MODEL = "ditto"
"""Prefix of the client's own model in its client state."""


@dataclass(frozen=True)
class Ditto(FedAvg):
    """FedAvg, and a personal model for each client.

    A client minimises F_k(v) + pull / 2 * ||v - x||^2 over its own model v, with x the global model. v starts as the global
    model of the client's first round. The other arguments are those of `FedAvg`.

    Args:
        weights: weights of the clients in the global model's mean: `uniform` as in Algorithm 1, or `examples`.
        pull: lambda in the paper, >= 0; with 0 each client trains alone.
    """

    weights: Literal["examples", "uniform"] = "uniform"
    pull: float = 0.1

    def argument_errors(self) -> list[ConfigError | None]:
        """Errors in the arguments; None for a valid argument."""
        usual = "the paper tunes it between 0.05 and 2"
        is_valid = 0 <= self.pull < float("inf")
        error = require(is_valid, "pull", self.pull, "must be a number of at least 0", usual)
        return [*super().argument_errors(), error]

    @property
    def personalized(self) -> bool:
        """True: each client evaluates its own model."""
        return True

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Warnings about personal evaluation."""
        yield from check_personal_evaluation(facts)

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Run FedAvg's client half, then fit the client's own model.

        A client whose step budget ends before keeps its own model, or has none yet.
        """
        x, update = self.model(shared), super().client(local, shared, client_state)
        start = load_model(client_state, PERSONAL_MODEL) or x
        own = local.fit(start, GradientTerm(mu=self.pull, center=x.parameters), key=1)
        return replace(update, client_state=save_model(own.model, PERSONAL_MODEL) if own.steps else client_state)

    def personal_model(self, local: Local, shared: Shared, client_state: Groups) -> Model:
        """The client's own model; the global model before the client has one."""
        return load_model(client_state, PERSONAL_MODEL) or self.model(shared)
