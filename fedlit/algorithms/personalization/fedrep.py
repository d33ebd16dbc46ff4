"""Shared representations: each client first fits its own head to the common body, then the body to its head.

Collins, Hassani, Mokhtari, Shakkottai, "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021,
https://arxiv.org/abs/2102.07078, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.personalization.partial import PersonalLayers, PersonalLocal, load_model, select
from fedlit.core.errors import ConfigError, require, require_at_least
from fedlit.core.messages import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups


@dataclass(frozen=True)
class FedRep(PersonalLayers):
    """The head is kept and trained alone for `head_epochs`, then the body alone for what the schedule says.

    Args:
        head_epochs: passes over the shard for the head, >= 1; the paper takes 10, and 1 for the body.
    """

    layers: Literal["norm", "last", "all", "none"] = "last"
    head_epochs: int = 10

    def wrong(self) -> list[ConfigError | None]:
        """What is wrong with its arguments; None for what is right."""
        body = require(self.layers != "all", "layers", "all", "leaves no body to train", "take last, or names")
        return [*super().argument_errors(), require_at_least("head_epochs", self.head_epochs), body]

    def hands(self, local: Local, memory: Groups) -> PersonalLocal:
        """Hands that train in two phases."""
        return _HeadThenBody(
            local, load_model(memory) or select(self._start, self.personal_names), self._start, self.head_epochs
        )


@dataclass
class _HeadThenBody(PersonalLocal):
    head_epochs: int = 1

    def fit(self, model: Model, *terms: GradientTerm | ContrastiveTerm, **more: Any) -> FitResult:
        """The head, then the body."""
        head = self.local.fit(
            model.fill_from(self.full_model), only=self.own.parameters, epochs=self.head_epochs, key=1
        )
        body = self.local.fit(head.model, *terms, only=model.parameters, **more)
        return self.split_result(replace(body, steps=head.steps + body.steps), model)
