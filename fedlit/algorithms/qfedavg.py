"""Fair resource allocation: clients with a larger loss get a larger weight.

Li, Sanjabi, Beirami, Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, https://arxiv.org/abs/1905.10497,
Algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlit.algorithms.algorithm import Algorithm, Local
from fedlit.algorithms.fedavg import FedAvg, fedavg_argument_errors
from fedlit.core.errors import raise_errors, require, require_positive
from fedlit.core.facts import Weighting
from fedlit.core.messages import Aggregate, ServerState, Shared, Update
from fedlit.core.model import Model
from fedlit.core.tensors import Groups, norm, scalar, scale

TINY = 1e-10
"""Added to a loss, as in the paper's code: a loss of 0 has no power below 0."""


@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """Weigh each client's difference by its loss to the power q.

    x <- x - sum_k F_k^q L (x - y_k) / sum_k (q F_k^(q-1) ||L (x - y_k)||^2 + L F_k^q), with L = 1 / lr; lr is the round's.

    F_k is the mean training loss of the global model on client k before it trains. Sums are over the cohort, and each client
    counts the same. With q = 0 it is the uniform mean. Drift in the record is that of the weighted differences.

    Args:
        q: degree of fairness, >= 0.
        lr: learning rate of the clients in round 1, > 0. The inverse of a round's rate stands for the Lipschitz constant of the
            gradients.
        buffers: `mean` or `server`, as in FedAvg.
    """

    q: float = 1.0
    lr: float = 0.1
    buffers: Literal["mean", "server"] = "mean"

    def __post_init__(self) -> None:
        uniform = "0 is the uniform mean"
        raise_errors(
            require(0 <= self.q < float("inf"), "q", self.q, "must be a number of at least 0", uniform),
            require_positive("lr", self.lr, "set it to the clients' learning rate"),
            *fedavg_argument_errors(buffers=self.buffers),
        )

    @property
    def _average(self) -> FedAvg:
        return FedAvg("uniform", buffers=self.buffers)

    @property
    def weighting(self) -> Weighting:
        """`losses`: a client with a high loss counts more."""
        return "losses"

    def init(self, model: Model) -> ServerState:
        """Start from the initial model."""
        return self._average.init(model)

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Measure the loss, then train.

        A client that took no step has weight 0.
        """
        x, lipschitz = self.model(shared), 1 / (self.lr * local.lr_factor)
        loss = local.loss(x) + TINY
        y = local.fit(x)
        delta = y.delta(x, buffers=self.buffers == "mean")
        square = (lipschitz * norm(delta["parameters"])) ** 2
        h = self.q * loss ** (self.q - 1) * square + lipschitz * loss**self.q
        weighted = scale(lipschitz * loss**self.q, delta["parameters"])
        return Update({**delta, "parameters": weighted, "h": {"h": scalar(h)}}, self._average.weight(y))

    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Move the model by the ratio of the two means."""
        step = {name: delta / aggregate["h"]["h"] for name, delta in aggregate["parameters"].items()}
        groups = {"parameters": step, "buffers": aggregate["buffers"]}
        return state.with_shared(model=state.model.add(groups))

    def model(self, shared: Shared) -> Model:
        """The global model."""
        return shared.model
