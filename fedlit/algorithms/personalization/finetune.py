"""Fine-tuning: FedAvg, and before it is evaluated on a client's own samples the model is trained on the client's shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedlit.algorithms.algorithm import Local, Shared
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.personalization.partial import check_personal_evaluation
from fedlit.core.errors import ConfigError, require_at_least
from fedlit.core.facts import FederationFacts
from fedlit.core.messages import Model
from fedlit.core.tensors import Groups


@dataclass(frozen=True)
class Finetune(FedAvg):
    """The baseline that a personal model must beat. Besides `epochs` its arguments are those of `FedAvg`.

    Args:
        epochs: passes of a client over its shard before it is evaluated, >= 1. What it comes to is not kept.
    """

    epochs: int = 1

    def wrong(self) -> list[ConfigError | None]:
        """What is wrong with its arguments; None for what is right."""
        return [*super().argument_errors(), require_at_least("epochs", self.epochs)]

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Something to see the personal models by."""
        yield from check_personal_evaluation(facts)

    def personal_model(self, local: Local, shared: Shared, memory: Groups) -> Model:
        """The global model after local training."""
        return local.fit(self.model(shared), epochs=self.epochs, key=1).model
