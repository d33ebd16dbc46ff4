"""FedExP: federated averaging with an adaptive step of the server.

Jhunjhunwala, Wang, Joshi, "FedExP: Speeding Up Federated Averaging via Extrapolation", ICLR 2023,
https://arxiv.org/abs/2301.09604
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fedlit import Aggregate, Algorithm, Local, Model, ServerState, Shared, Update
from fedlit.core.errors import ConfigError
from fedlit.core.tensors import Groups, norm, scale


@dataclass(frozen=True)
class FedExP(Algorithm):
    """Move the model by the mean difference times a step of at least 1.

    The step is max(1, mean_i ||d_i||^2 / (2 (||mean_i d_i||^2 + epsilon))) for the clients' differences d_i. It is large when
    the clients disagree. All clients weigh the same, as in the paper.

    Args:
        epsilon: > 0; a larger one gives smaller steps.
    """

    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ConfigError("epsilon", self.epsilon, "must be greater than 0")

    def init(self, model: Model) -> ServerState:
        """Start from the initial model."""
        return ServerState(round=0, shared=Shared(model)).with_private(step={"size": torch.tensor(1.0)})

    def client(self, local: Local, shared: Shared, client_state: Groups) -> Update:
        """Train from the global model; send the difference and its squared norm."""
        result = local.fit(shared.model)
        delta = result.delta(shared.model)
        squared = torch.tensor(norm(delta["parameters"]) ** 2)
        return Update({**delta, "fedexp": {"squared_norm": squared}}, weight=float(result.steps > 0))

    def server(self, state: ServerState, aggregate: Aggregate) -> ServerState:
        """Move the parameters by the step times the mean; buffers are averaged."""
        mean = aggregate["parameters"]
        ratio = float(aggregate["fedexp"]["squared_norm"]) / (2 * (norm(mean) ** 2 + self.epsilon))
        size = max(1.0, ratio)
        model = state.model.add({**aggregate.groups, "parameters": scale(size, mean)})
        return state.with_shared(model=model).with_private(step={"size": torch.tensor(size)})

    def model(self, shared: Shared) -> Model:
        """The global model."""
        return shared.model

    def metrics(self, state: ServerState) -> Mapping[str, float]:
        """The last step of the server."""
        return {"fedexp/step": float(state.private["step"]["size"])}
