"""Stochastic controlled averaging: control variates correct each client's gradients.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
https://arxiv.org/abs/1910.06378, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedlit.algorithms.algorithm import Algorithm, Local
from fedlit.algorithms.fedavg import FedAvg, fedavg_argument_errors
from fedlit.algorithms.server_optimizers import ServerOptimizer
from fedlit.core.errors import raise_errors, require
from fedlit.core.facts import Weighting
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors, apply_step, norm, sub, zeros_like


@dataclass(frozen=True)
class Scaffold(Algorithm):
    """Correct each local gradient by two control variates.

    A local step follows g - c_i + c; x <- x + lr / |S| * sum (y_i - x) and c <- c + 1 / N * sum (c_i+ - c_i).

    The local optimizer must be torch's SGD and start fresh in each round. (x - y_i) / S_i is the mean of the directions of its
    steps only if S_i is how far it would have moved under a gradient of 1, which is K * lr for K plain steps. So momentum,
    changing rates and weight decay, which counts as part of the gradient, are allowed.

    Args:
        option: renewal of a client's control variate: 1 takes the gradient of its whole shard at x; 2 takes
            c_i - c + (x - y_i) / S_i, which needs no further computation.
        lr: learning rate of the server, > 0.
        optimizer: server optimizer that replaces lr * mean.
        buffers: `mean` or `server`, as in FedAvg.
    """

    option: Literal[1, 2] = 2
    lr: float = 1.0
    optimizer: ServerOptimizer | None = None
    buffers: Literal["mean", "server"] = "mean"

    def __post_init__(self) -> None:
        option = require(self.option in (1, 2), "option", self.option, "must be 1 or 2", "2 needs no further gradient")
        rest = {"lr": self.lr, "optimizer": self.optimizer, "buffers": self.buffers}
        raise_errors(option, *fedavg_argument_errors(**rest))

    @property
    def average(self) -> FedAvg:
        """The uniform average of the paper."""
        return FedAvg("uniform", self.lr, self.optimizer, self.buffers)

    @property
    def weighting(self) -> Weighting:
        """`equal`: see Algorithm 1."""
        return "equal"

    def init(self, model: Model) -> ServerState:
        """Start from the initial model and control variates of 0."""
        return self.average.init(model).with_shared(control=zeros_like(model.parameters))

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Run lines 7 to 14.

        A client that took no step has weight 0 and keeps its control variate.
        """
        x, c = self.model(shared), shared["control"]
        c_i = client_state.get("control", zeros_like(c))
        y = local.fit(x, GradientTerm(offset=sub(c, c_i)))
        control = self._control(local, x, y, c, c_i) if y.steps else c_i
        delta = {**y.delta(x, buffers=self.buffers == "mean"), "control": sub(control, c_i)}
        return Update(delta, self.average.weight(y), {"control": control} if y.steps else client_state)

    def _control(self, local: Local, x: Model, y: FitResult, c: Tensors, c_i: Tensors) -> Tensors:
        reach = y.displacement  # read under both options: it refuses optimizers that the paper does not cover
        if self.option == 1:
            return local.gradient(x)
        difference = sub(x.parameters, y.model.parameters)
        return {
            name: old - c[name] + difference[name] / reach[name] if reach.get(name) else old
            for name, old in c_i.items()
        }

    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Run lines 16 and 17; control variates divide by N."""
        share = aggregate.weight / aggregate.population
        control = {
            name: apply_step(old, share * aggregate["control"][name]) for name, old in state.shared["control"].items()
        }
        return self.average.server(state, aggregate).with_shared(control=control)

    def model(self, shared: Shared) -> Model:
        """The global model."""
        return shared.model

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """The norm of the server's control variate."""
        return {"drift/control_norm": norm(state.shared["control"])}
