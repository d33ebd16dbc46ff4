"""Normalised averaging: more local steps give a client no more influence.

Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
NeurIPS 2020, https://arxiv.org/abs/2007.07481.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedlit.algorithms.algorithm import Local
from fedlit.algorithms.fedavg import FedAvg
from fedlit.core.facts import Weighting
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.tensors import Groups, scalar


@dataclass(frozen=True)
class FedNova(FedAvg):
    """Divide each client's difference by how far its steps could move.

    x <- x + lr * S * sum_i p_i (y_i - x) / S_i, with S = sum_i p_i S_i.

    S_i is how far the client's own optimizer would have moved under a gradient of 1: lr * ||a_i||_1 in the paper, so that S is
    its tau_eff times lr. It follows the rates, momentum, Nesterov, dampening and proximal term of every step. The local
    optimizer must be torch's SGD and start fresh in each round. Its weight decay counts as part of the gradient.

    The arguments are those of `FedAvg`. The paper's server momentum is `optimizer=Momentum(momentum=...)`. Drift in the
    record is that of the normalised updates (y_i - x) / S_i.
    """

    @property
    def weighting(self) -> Weighting:
        """`steps`: an update is divided by how far the client could move."""
        return "steps"

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Send the difference divided by S_i, and S_i, for each parameter."""
        x = self.model(shared)
        y = local.fit(x, *self.terms(x))
        reach, delta = y.displacement, y.delta(x, buffers=self.buffers == "mean")
        unit = {
            name: d / reach[name] if reach.get(name) else d.new_zeros(d.shape)
            for name, d in delta["parameters"].items()
        }
        steps = {name: scalar(reach.get(name, 0.0)) for name in x.parameters}
        return Update({**delta, "parameters": unit, "displacement": steps}, self.weight(y))

    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Multiply the mean of the normalised differences by S, then average."""
        step = {name: aggregate["displacement"][name] * unit for name, unit in aggregate["parameters"].items()}
        return super().server(state, replace(aggregate, groups={**aggregate.groups, "parameters": step}))
