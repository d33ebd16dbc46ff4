"""What travels between server and clients, and what a round leaves behind: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor

from fedlit.tensors import Groups, Tensors, change, moved, sub

if TYPE_CHECKING:
    from fedlit.wire import Layout


@dataclass(frozen=True)
class Model:
    """A module's state by name: what an optimizer trains, and what it does not."""

    parameters: Tensors
    buffers: Tensors

    def groups(self) -> Groups:
        """Parameters and buffers as two groups of named tensors."""
        return {"parameters": self.parameters, "buffers": self.buffers}

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers under their names in the module."""
        return {**self.parameters, **self.buffers}

    def plus(self, step: Groups) -> Model:
        """The model moved by a step, added in float64; names that are not in the step stay, integers move by whole numbers."""
        return Model(
            *(
                {name: moved(old, step.get(group, {}).get(name)) for name, old in tensors.items()}
                for group, tensors in self.groups().items()
            )
        )


@dataclass(frozen=True)
class Term:
    """Adds mu * (w - center) + offset to the gradient at w in every local step. Data, so it crosses to workers."""

    mu: float = 0.0
    center: Tensors | None = None
    offset: Tensors | None = None


@dataclass(frozen=True)
class Fit:
    """What a client's local training came to.

    Args:
        model: the model after the last step.
        steps: optimizer steps that happened.
        examples: samples in the client's shard.
        metrics: what the module logged, averaged over the fit.
    """

    model: Model
    steps: int
    examples: int
    metrics: Mapping[str, float]

    def delta(self, start: Model, buffers: bool = True) -> dict[str, Tensors]:
        """How far parameters moved from `start`, and buffers unless they are not asked for. In the dtypes that they have: an
        update is sent in float32, so float64 numbers move by what that can tell.

        Raises:
            Mistake: if an integer buffer moved further than float32 can tell.
        """
        delta: dict[str, Tensors] = {"parameters": sub(self.model.parameters, start.parameters)}
        if buffers:
            of = self.model.buffers.items()
            delta["buffers"] = {name: change(name, new, start.buffers[name]) for name, new in of}
        return delta


@dataclass(frozen=True)
class Update:
    """What a client rule returns.

    Args:
        send: groups of named tensors to be averaged.
        weight: to average them with, >= 0.
        remember: what the client is given as its memory when it next takes part.
    """

    send: Groups
    weight: float
    remember: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """All that the server knows.

    Args:
        round: rounds done.
        shared: what each client is sent.
        private: what stays with the server, such as its optimizer's momentum.
    """

    round: int
    shared: Mapping[str, Model | Tensors]
    private: Mapping[str, Model | Tensors] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The global model."""
        model = self.shared["model"]
        assert isinstance(model, Model)
        return model

    def set(self, **shared: Model | Tensors) -> State:
        """The state with some of the shared entries replaced or added."""
        return replace(self, shared={**self.shared, **shared})

    def keep(self, **private: Model | Tensors) -> State:
        """The state with some of the private entries replaced or added."""
        return replace(self, private={**self.private, **private})


@dataclass(frozen=True)
class Chunk:
    """Clients whose updates one worker adds up, left to right.

    Args:
        round: counted from 0.
        index: the place in the tree of sums.
        clients: their ids.
        memories: what those of them remember that took part before.
        budgets: optimizer steps after which a client is cut short, of those that are.
        attempt: how often this chunk's worker process was lost before; None where there is no worker process.
    """

    round: int
    index: int
    clients: tuple[int, ...]
    memories: Mapping[int, Groups] = field(default_factory=dict)
    budgets: Mapping[int, int] = field(default_factory=dict)
    attempt: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """One split of the data (`val`, `test`) for one model; with a client, its own part of it."""

    round: int
    split: str
    client: int | None = None


Job = Chunk | Evaluation

Outcome = Literal[
    "exception", "out_of_memory", "not_finite", "bad_shape", "deadline", "surplus", "lost_worker", "planned"
]  # of a client whose update is not in the sum
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Failure:
    """A client whose update is not in the sum, and why."""

    client: int
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Partial:
    """A chunk's sum: weight times update, in float64, of the clients that came through.

    Args:
        index: the chunk's place in the tree of sums.
        layout: how the flat sum is cut into named tensors; None if nobody came through.
        total: sum of weight * update, float64 of shape (d,); None if nobody came through.
        weight: sum of the weights.
        members: clients in the sum.
        failures: clients that are not.
        metrics: for each logged name (sum of examples * value, sum of examples).
        bytes: length of the serialised updates.
        steps: optimizer steps in all.
        memories: what the members remember from now on.
    """

    index: int
    layout: Layout | None = None
    total: Tensor | None = None
    weight: float = 0.0
    members: tuple[int, ...] = ()
    failures: tuple[Failure, ...] = ()
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bytes: int = 0
    steps: int = 0
    memories: Mapping[int, Groups] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What the module logged on one split, or on one client's part of it."""

    split: str
    metrics: Mapping[str, float]
    client: int | None = None


@dataclass(frozen=True)
class Mean:
    """The weighted mean of a round's updates, float64, and the sum of its weights."""

    groups: Groups
    weight: float
    clients: int

    def __getitem__(self, group: str) -> Tensors:
        return self.groups[group]
