"""Shared representations: each client first fits its own head to the common body, then the body to its head.

Collins, Hassani, Mokhtari, Shakkottai, "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021,
https://arxiv.org/abs/2102.07078, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.personalization.partial import Hands, Personal, part, recalled
from fedlit.core.errors import Mistake, unless, whole
from fedlit.core.messages import Contrast, Fit, Model, Term
from fedlit.core.tensors import Groups


@dataclass(frozen=True)
class FedRep(Personal):
    """The head is kept and trained alone for `head_epochs`, then the body alone for what the schedule says.

    Args:
        head_epochs: passes over the shard for the head, >= 1; the paper takes 10, and 1 for the body.
    """

    layers: Literal["norm", "last", "all", "none"] = "last"
    head_epochs: int = 10

    def wrong(self) -> list[Mistake | None]:
        """What is wrong with its arguments; None for what is right."""
        body = unless(self.layers != "all", "layers", "all", "leaves no body to train", "take last, or names")
        return [*super().wrong(), whole("head_epochs", self.head_epochs), body]

    def hands(self, local: Local, memory: Groups) -> Hands:
        """Hands that train in two phases."""
        return _InTurn(local, recalled(memory) or part(self._start, self.kept), self._start, self.head_epochs)


@dataclass
class _InTurn(Hands):
    head_epochs: int = 1

    def fit(self, model: Model, *terms: Term | Contrast, **more: Any) -> Fit:
        """The head, then the body."""
        head = self.local.fit(model.over(self.whole), only=self.own.parameters, epochs=self.head_epochs, key=1)
        body = self.local.fit(head.model, *terms, only=model.parameters, **more)
        return self.shown(replace(body, steps=head.steps + body.steps), model)
