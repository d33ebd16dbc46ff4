"""Fine-tuning: FedAvg, and local training before a client's own evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.partial import check_personal_evaluation
from fedlit.core.errors import ConfigError, require_at_least
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Shared
from fedlit.core.model import Model
from fedlit.core.tensors import Groups


@dataclass(frozen=True)
class Finetune(FedAvg):
    """A baseline for personal models.

    The other arguments are those of `FedAvg`.

    Args:
        epochs: passes of a client over its shard before its evaluation, >= 1. The trained model is not stored.
    """

    epochs: int = 1

    def argument_errors(self) -> list[ConfigError | None]:
        """Errors in the arguments; None for a valid argument."""
        return [*super().argument_errors(), require_at_least("epochs", self.epochs)]

    @property
    def personalized(self) -> bool:
        """True: each client evaluates its own model."""
        return True

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Warnings about personal evaluation."""
        yield from check_personal_evaluation(facts)

    def personal_model(self, local: Local, shared: Shared, client_state: Groups) -> Model:
        """The global model after local training."""
        return local.fit(self.model(shared), epochs=self.epochs, key=1).model
