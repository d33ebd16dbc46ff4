"""Shared representations: a client trains its own head, then the shared body.

Collins, Hassani, Mokhtari, Shakkottai, "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021,
https://arxiv.org/abs/2102.07078, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.personalization.partial import PersonalLayers, PersonalLocal
from fedlit.core.errors import ConfigError, require, require_at_least
from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups


@dataclass(frozen=True)
class FedRep(PersonalLayers):
    """A personal head that trains before the shared body.

    The head trains alone for `head_epochs`; then the body trains alone for the schedule's local work. If a client's step budget
    ends before the body has moved, the client keeps its head, and its update has the weight 0.

    Args:
        head_epochs: passes over the shard for the head, >= 1; the paper takes 10, and 1 for the body.
    """

    layers: Literal["norm", "last", "all", "none"] = "last"
    head_epochs: int = 10

    def argument_errors(self) -> list[ConfigError | None]:
        """Errors in the arguments; None for a valid argument."""
        body = require(self.layers != "all", "layers", "all", "leaves no body to train", "take last, or give names")
        return [*super().argument_errors(), require_at_least("head_epochs", self.head_epochs), body]

    def make_local(self, local: Local, client_state: Groups) -> PersonalLocal:
        """Local training in two phases."""
        plain = super().make_local(local, client_state)
        return _HeadThenBody(local, plain.own, plain.start, self.head_epochs)


@dataclass
class _HeadThenBody(PersonalLocal):
    head_epochs: int = 1

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        key: int = 0,
        **options: Any,
    ) -> FitResult:
        """Train the head, then the body, each with its own key.

        Returns:
            the body's fit: an update is weighed by the steps of the part that is sent.

        Raises:
            ConfigError: if the inner algorithm trains a part of the model only.
        """
        if only is not None:
            problem, hint = "trains the model part by part, as FedRep does", "name all personal layers in one FedRep"
            raise ConfigError("algorithm.inner", "", problem, hint)
        full = model.fill_from(self.full_model)
        head = self.local.fit(full, only=self.own.parameters, epochs=self.head_epochs, key=2 * key + 1)
        body = self.local.fit(head.model, *terms, only=model.parameters, key=2 * key, **options)
        return self.split_result(body, model)
