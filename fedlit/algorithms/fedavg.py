"""Federated averaging: clients train, and the server averages their updates.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, https://arxiv.org/abs/1602.05629. With `proximal` > 0 it is FedProx: Li, Sahu, Zaheer, Sanjabi,
Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127.
Centralised training, a baseline, is the same rule with one client that has all examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fedlit.algorithms.algorithm import Algorithm, Local
from fedlit.algorithms.server_optimizers import ServerOptimizer
from fedlit.core.errors import ConfigError, ConfigErrors, raise_errors, require, require_choice, require_positive
from fedlit.core.facts import Weighting
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Move the global model by the weighted mean of the clients' differences.

    x <- x + lr * sum_i p_i (y_i - x), with p_i the clients' shares of the cohort's weight.

    Args:
        weights: `examples` weighs a client by its examples, `uniform` weighs all clients the same.
        lr: learning rate of the server, > 0; 1 is plain averaging. Buffers are averaged at any rate.
        optimizer: server optimizer that replaces lr * mean for the parameters.
        buffers: `mean` averages buffers like parameters; `server` does not send them and keeps the server's.
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
        """Errors in the arguments; None for a valid argument."""
        unused, mu = "is not used: the server has an optimizer", self.proximal
        usual = "0 is FedAvg, 0.01 is a usual start"
        return [
            require_choice("weights", self.weights, ["examples", "uniform"]),
            require_choice("buffers", self.buffers, ["mean", "server"]),
            require_positive("lr", self.lr, "1 is plain averaging")
            if self.optimizer is None
            else require(self.lr == 1, "lr", self.lr, unused, "set algorithm.optimizer.lr instead"),
            require(0 <= mu < float("inf"), "proximal", mu, "must be a number of at least 0", usual),
        ]

    @property
    def weighting(self) -> Weighting:
        """`equal` with `weights=uniform`."""
        return "equal" if self.weights == "uniform" else "examples"

    def init(self, model: Model) -> ServerState:
        """Start from the initial model."""
        state = ServerState(round=0, shared=Shared(model))
        return state if self.optimizer is None else state.with_private(**self.optimizer.init(model.parameters))

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Train from the global model and send the difference.

        A client that took no step has weight 0.
        """
        x = self.model(shared)
        y = local.fit(x, *self.terms(x))
        return Update(y.delta(x, buffers=self.buffers == "mean"), self.weight(y))

    def terms(self, x: Model) -> list[GradientTerm]:
        """Terms that are added to the clients' gradients."""
        return [GradientTerm(mu=self.proximal, center=x.parameters)] if self.proximal else []

    def weight(self, y: FitResult) -> float:
        """The weight of a client: 0 if it took no step."""
        return float((y.examples if self.weights == "examples" else 1) if y.steps else 0)

    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Move the model by lr * mean, or by the optimizer's step."""
        mean = aggregate["parameters"]
        if self.optimizer is None:
            step, slots = {name: self.lr * delta for name, delta in mean.items()}, {}
        else:
            step, slots = self.optimizer.step(mean, state.private)
        groups = {"parameters": step, "buffers": aggregate["buffers"]}
        return state.with_shared(model=state.model.add(groups)).with_private(**slots)

    def model(self, shared: Shared) -> Model:
        """The global model."""
        return shared.model


def fedavg_argument_errors(**arguments: Any) -> list[ConfigError]:
    """Errors in some arguments of FedAvg, for algorithms that share them."""
    try:
        FedAvg(**arguments)
    except (ConfigError, ConfigErrors) as error:
        return error.errors
    return []


@dataclass(frozen=True)
class Centralised(FedAvg):
    """One client owns all training examples and takes part in every round.

    A round has the schedule's local work. Evaluation is the same as for other algorithms, also on the clients' own test sets.
    """

    @property
    def pooled(self) -> bool:
        """True: one client trains on the examples of all clients."""
        return True
