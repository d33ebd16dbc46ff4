"""Dynamic regularisation: each client's objective is bent so that its minimum agrees with everybody's.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR 2021,
https://arxiv.org/abs/2111.04263, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from fedlit.algorithms.algorithm import Local, Shared
from fedlit.algorithms.fedavg import FedAvg, fedavg_argument_errors
from fedlit.core.errors import raise_errors, require_positive
from fedlit.core.messages import Aggregate, GradientTerm, Model, ServerState, Update
from fedlit.core.tensors import Groups, Tensors, axpy, norm, scale, zeros_like


@dataclass(frozen=True)
class FedDyn:
    """A client minimises F_i(w) - <g_i, w> + alpha / 2 * ||w - x||^2, then g_i <- g_i - alpha * (y_i - x).

    The server: h <- h - alpha / N * sum over the cohort of (y_i - x), x <- mean of y_i - h / alpha, both uniform. Local
    training stands for the minimisation, so that it is as near to the paper as the schedule lets it come.

    Args:
        alpha: > 0; the paper takes 0.1, 0.01 or 0.001.
        buffers: `mean` or `server`, as in FedAvg.
    """

    alpha: float = 0.01
    buffers: Literal["mean", "server"] = "mean"

    def __post_init__(self) -> None:
        raise_errors(require_positive("alpha", self.alpha), *fedavg_argument_errors(buffers=self.buffers))

    @property
    def _average(self) -> FedAvg:
        return FedAvg("uniform", buffers=self.buffers)

    def init(self, model: Model) -> ServerState:
        """h is 0."""
        h = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in model.parameters.items()}
        return self._average.init(model).with_private(h=h)

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """Trains with the linear and the quadratic term. A client that took no step weighs nothing and remembers the same."""
        x = self.model(shared)
        g = memory.get("gradient", zeros_like(x.parameters))
        y = local.fit(x, GradientTerm(mu=self.alpha, center=x.parameters, offset=scale(-1.0, g)))
        delta = y.delta(x, buffers=self.buffers == "mean")
        remember = {"gradient": axpy(-self.alpha, delta["parameters"], g)} if y.steps else memory
        return Update(delta, self._average.weight(y), remember)

    def server(self, state: ServerState, mean: Aggregate) -> ServerState:
        """h follows the sum over the cohort divided by N; the step is the mean difference less h / alpha."""
        share = mean.weight / mean.population
        h = axpy(-self.alpha * share, mean["parameters"], self._h(state))
        step = axpy(-1 / self.alpha, h, mean["parameters"])
        return state.with_shared(model=state.model.add({"parameters": step, "buffers": mean["buffers"]})).with_private(
            h=h
        )

    def model(self, shared: Shared) -> Model:
        """The server's model; the paper's code evaluates the mean of the clients' beside it."""
        return self._average.model(shared)

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """How large h is."""
        return {"drift/control_norm": norm(self._h(state))}

    def _h(self, state: ServerState) -> Tensors:
        h = state.private["h"]
        assert not isinstance(h, Model)
        return h
