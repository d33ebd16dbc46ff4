"""Stochastic controlled averaging: each client's gradients are corrected by how they differ from all clients'.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
https://arxiv.org/abs/1910.06378, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fedlit.algorithms.algorithm import Local, Shared
from fedlit.algorithms.fedavg import FedAvg, fedavg_argument_errors
from fedlit.algorithms.server_optimizers import ServerOptimizer
from fedlit.core.errors import raise_errors, require
from fedlit.core.messages import Aggregate, FitResult, GradientTerm, Model, ServerState, Update
from fedlit.core.tensors import Groups, Tensors, apply_step, norm, sub, zeros_like


@dataclass(frozen=True)
class Scaffold:
    """A local step follows g - c_i + c; x <- x + lr / |S| * sum (y_i - x) and c <- c + 1 / N * sum (c_i+ - c_i).

    The local optimizer must be torch's SGD and begin anew in each round: (x - y_i) / S_i is the mean of the directions that it
    followed only if S_i is how far it would have moved under a gradient of 1, which is K * lr for K plain steps. Momentum,
    rates that change and weight decay, which counts as part of the gradient, are so allowed for.

    Args:
        option: how a client's control is renewed: 1 takes the gradient of its whole shard at x; 2 takes
            c_i - c + (x - y_i) / S_i, for which nothing has to be computed.
        lr: the server's learning rate, > 0.
        optimizer: what the server does with the mean update in place of lr * mean.
        buffers: `mean` or `server`, as in FedAvg.
    """

    option: Literal[1, 2] = 2
    lr: float = 1.0
    optimizer: ServerOptimizer | None = None
    buffers: Literal["mean", "server"] = "mean"

    def __post_init__(self) -> None:
        option = require(self.option in (1, 2), "option", self.option, "must be 1 or 2", "2 needs no further gradient")
        raise_errors(option, *fedavg_argument_errors(lr=self.lr, optimizer=self.optimizer, buffers=self.buffers))

    @cached_property
    def average(self) -> FedAvg:
        """The uniform average of the paper."""
        return FedAvg("uniform", self.lr, self.optimizer, self.buffers)

    def init(self, model: Model) -> ServerState:
        """The controls begin at 0."""
        return self.average.init(model).with_shared(control=zeros_like(model.parameters))

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """Lines 7 to 14. A client that took no step weighs nothing and keeps its control."""
        x, c = self.model(shared), _tensors(shared["control"])
        c_i = memory.get("control", zeros_like(c))
        y = local.fit(x, GradientTerm(offset=sub(c, c_i)))
        control = self._control(local, x, y, c, c_i) if y.steps else c_i
        delta = {**y.delta(x, buffers=self.buffers == "mean"), "control": sub(control, c_i)}
        return Update(delta, self.average.weight(y), client_state={"control": control} if y.steps else memory)

    def _control(self, local: Local, x: Model, y: FitResult, c: Tensors, c_i: Tensors) -> Tensors:
        far = y.displacement  # asked for under both options: an optimizer that has none is not the paper's
        if self.option == 1:
            return local.gradient(x)
        went = sub(x.parameters, y.model.parameters)
        return {name: old - c[name] + went[name] / far[name] if far.get(name) else old for name, old in c_i.items()}

    def server(self, state: ServerState, mean: Aggregate) -> ServerState:
        """Lines 16 and 17: the sum over the cohort divided by N, not by |S|."""
        share = mean.weight / mean.population
        control = {
            name: apply_step(old, share * mean["control"][name])
            for name, old in _tensors(state.shared["control"]).items()
        }
        return self.average.server(state, mean).with_shared(control=control)

    def model(self, shared: Shared) -> Model:
        """The global model."""
        return self.average.model(shared)

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """How large the server's control is."""
        return {"drift/control_norm": norm(_tensors(state.shared["control"]))}


def _tensors(value: Model | Tensors) -> Tensors:
    assert not isinstance(value, Model)
    return value
