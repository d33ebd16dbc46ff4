"""Federated averaging: clients train, the server averages what they changed.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, https://arxiv.org/abs/1602.05629. With `proximal` > 0 it is FedProx: Li, Sahu, Zaheer, Sanjabi,
Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fedlit.algorithms.algorithm import Local, Shared
from fedlit.algorithms.server_optimizers import ServerOptimizer
from fedlit.core.errors import ConfigError, ConfigErrors, raise_errors, require, require_choice, require_positive
from fedlit.core.messages import Aggregate, FitResult, GradientTerm, Model, ServerState, Update
from fedlit.core.tensors import Groups


@dataclass(frozen=True)
class FedAvg:
    """x <- x + lr * sum_i p_i (y_i - x), with p_i the clients' shares of the cohort's weight.

    Args:
        weights: a client counts by its examples, or all that trained count the same.
        lr: the server's learning rate, > 0; 1 is plain averaging. Buffers are averaged whatever it is.
        optimizer: what the server does with the mean update of the parameters in place of lr * mean.
        buffers: `mean` averages them like parameters; with `server` they are not sent and the server's stay.
        proximal: mu of FedProx, >= 0: each client minimises F_i(w) + mu / 2 * ||w - x||^2 over its parameters.
    """

    weights: Literal["examples", "uniform"] = "examples"
    lr: float = 1.0
    optimizer: ServerOptimizer | None = None
    buffers: Literal["mean", "server"] = "mean"
    proximal: float = 0.0

    def __post_init__(self) -> None:
        raise_errors(*self.argument_errors())

    def argument_errors(self) -> list[ConfigError | None]:
        """What is wrong with its arguments; None for what is right."""
        unused, mu = "is not used: the server has an optimizer", self.proximal
        usual = "0 is FedAvg, 0.01 a usual start"
        return [
            require_choice("weights", self.weights, ["examples", "uniform"]),
            require_choice("buffers", self.buffers, ["mean", "server"]),
            require_positive("lr", self.lr, "1 is plain averaging")
            if self.optimizer is None
            else require(self.lr == 1, "lr", self.lr, unused, "algorithm.optimizer.lr is its rate"),
            require(0 <= mu < float("inf"), "proximal", mu, "must be a number of at least 0", usual),
        ]

    def init(self, model: Model) -> ServerState:
        """The server starts from the initial model."""
        state = ServerState(round=0, shared={"model": model})
        return state if self.optimizer is None else state.with_private(**self.optimizer.init(model.parameters))

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """Trains from the global model; sends the difference. A client that took no step weighs nothing."""
        x = self.model(shared)
        y = local.fit(x, *self.terms(x))
        return Update(y.delta(x, buffers=self.buffers == "mean"), self.weight(y))

    def terms(self, x: Model) -> list[GradientTerm]:
        """What is added to the clients' gradients."""
        return [GradientTerm(mu=self.proximal, center=x.parameters)] if self.proximal else []

    def weight(self, y: FitResult) -> float:
        """What a client counts: 0 if it took no step."""
        return float((y.examples if self.weights == "examples" else 1) if y.steps else 0)

    def server(self, state: ServerState, mean: Aggregate) -> ServerState:
        """x + lr * mean, or the optimizer's step."""
        if self.optimizer is None:
            step, slots = {name: self.lr * delta for name, delta in mean["parameters"].items()}, {}
        else:
            step, slots = self.optimizer.step(mean["parameters"], state.private)  # type: ignore[arg-type]
        moved = {"parameters": step, "buffers": mean["buffers"]}
        return state.with_shared(model=state.model.add(moved)).with_private(**slots)

    def model(self, shared: Shared) -> Model:
        """The global model."""
        model = shared["model"]
        assert isinstance(model, Model)
        return model


def fedavg_argument_errors(**arguments: Any) -> list[ConfigError]:
    """What FedAvg says against some of its arguments, for algorithms that have them too."""
    try:
        FedAvg(**arguments)
    except ConfigError as mistake:
        return [mistake]
    except ConfigErrors as several:
        return several.errors
    return []
