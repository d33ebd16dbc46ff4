"""Dynamic regularisation: terms in each client's objective make all local minima agree.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR 2021,
https://arxiv.org/abs/2111.04263, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedlit.algorithms.algorithm import Algorithm, Local
from fedlit.algorithms.fedavg import FedAvg, fedavg_argument_errors
from fedlit.core.errors import raise_errors, require_positive
from fedlit.core.facts import Weighting
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import GradientTerm, Model
from fedlit.core.tensors import Groups, axpy, float64_zeros, norm, scale, zeros_like


@dataclass(frozen=True)
class FedDyn(Algorithm):
    """Add a linear and a quadratic term to each client's objective.

    A client minimises F_i(w) - <g_i, w> + alpha / 2 * ||w - x||^2, then g_i <- g_i - alpha * (y_i - x).
    The server: h <- h - alpha / N * sum over the cohort of (y_i - x), x <- mean of y_i - h / alpha;
    both weigh all clients the same. Local training stands for the minimisation: more local work is nearer to the paper.

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

    @property
    def weighting(self) -> Weighting:
        """`equal`: see Algorithm 1."""
        return "equal"

    def init(self, model: Model) -> ServerState:
        """Start from the initial model and h = 0."""
        return self._average.init(model).with_private(h=float64_zeros(model.parameters))

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Train with the linear and the quadratic term.

        A client that took no step has weight 0 and keeps its state.
        """
        x = self.model(shared)
        g = client_state.get("gradient", zeros_like(x.parameters))
        y = local.fit(x, GradientTerm(mu=self.alpha, center=x.parameters, offset=scale(-1.0, g)))
        delta = y.delta(x, buffers=self.buffers == "mean")
        new_state = {"gradient": axpy(-self.alpha, delta["parameters"], g)} if y.steps else client_state
        return Update(delta, self._average.weight(y), new_state)

    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Update h; move the model by the mean minus h / alpha."""
        share = aggregate.weight / aggregate.population
        h = axpy(-self.alpha * share, aggregate["parameters"], state.private["h"])
        step = axpy(-1 / self.alpha, h, aggregate["parameters"])
        groups = {"parameters": step, "buffers": aggregate["buffers"]}
        return state.with_shared(model=state.model.add(groups)).with_private(h=h)

    def model(self, shared: Shared) -> Model:
        """The server's model.

        The paper's code also evaluates the mean of the clients' models.
        """
        return shared.model

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """The norm of h."""
        return {"drift/control_norm": norm(state.private["h"])}
