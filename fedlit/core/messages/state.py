"""The server state between two rounds, and a client's update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedlit.core.model import Model
from fedlit.core.tensors import Groups, Tensors


@dataclass(frozen=True)
class Update:
    """The return value of a client rule.

    Args:
        groups: groups of named tensors that the server averages.
        weight: weight of this client in the average, >= 0.
        client_state: state that the client receives when it next takes part.
    """

    groups: Groups
    weight: float
    client_state: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """The part of the server state that each client receives.

    Args:
        model: the global model.
        tensors: further named tensors by name, such as SCAFFOLD's control variate.
    """

    model: Model
    tensors: Mapping[str, Tensors] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensors:
        """The named tensors under `name`; raises KeyError if there are none."""
        return self.tensors[name]


@dataclass(frozen=True)
class StageState:
    """The state of one stage of the channel.

    Args:
        shared: tensors that each client receives.
        private: tensors that stay with the server.
    """

    shared: Tensors = field(default_factory=dict)
    private: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class ServerState:
    """Everything that the server knows between two rounds.

    Args:
        round: completed rounds.
        shared: the part that each client receives.
        private: named tensors that stay with the server, such as its optimizer's momentum.
        channel: the state of each stage of the channel, by the stage's name.
    """

    round: int
    shared: Shared
    private: Mapping[str, Tensors] = field(default_factory=dict)
    channel: Mapping[str, StageState] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The global model."""
        return self.shared.model

    def with_shared(self, model: Model | None = None, **tensors: Tensors) -> ServerState:
        """Replace the global model; add or replace named tensors that clients receive."""
        return replace(self, shared=Shared(model or self.model, {**self.shared.tensors, **tensors}))

    def with_private(self, **tensors: Tensors) -> ServerState:
        """Add or replace named tensors that stay with the server."""
        return replace(self, private={**self.private, **tensors})
