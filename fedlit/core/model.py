"""A model, what is added to its local training, and what that comes to: frozen values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedlit.core.tensors import Groups, Tensors, apply_step, difference, sub


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

    def add(self, step: Groups) -> Model:
        """The model moved by a step, added in float64; names that are not in the step stay, integers move by whole numbers."""
        return Model(
            *(
                {name: apply_step(old, step.get(group, {}).get(name)) for name, old in tensors.items()}
                for group, tensors in self.groups().items()
            )
        )

    def fill_from(self, rest: Model) -> Model:
        """This model, with the names that it lacks from another, in that one's order."""
        mine = self.groups()
        return Model(
            *({k: mine[group].get(k, t) for k, t in tensors.items()} for group, tensors in rest.groups().items())
        )


@dataclass(frozen=True)
class GradientTerm:
    """Adds mu * (w - center) + offset to the gradient at w in every local step. Data, so it crosses to workers."""

    mu: float = 0.0
    center: Tensors | None = None
    offset: Tensors | None = None


@dataclass(frozen=True)
class ContrastiveTerm:
    """Adds mu * -log(e^(sim(z, g) / T) / (e^(sim(z, g) / T) + e^(sim(z, b) / T))) to the loss of every local step, the mean
    over its batch: z are features of the model in training, g those of `towards`, b those of `away`, sim is their cosine.

    Args:
        mu: its weight.
        temperature: T.
        towards: the model whose features are neared.
        away: the model whose features are left; None for no contrast.
        layer: path of the layer whose output are the features; None for what the last layer takes in.
    """

    mu: float
    temperature: float
    towards: Model
    away: Model | None
    layer: str | None = None


@dataclass(frozen=True)
class FitResult:
    """What a client's local training came to.

    Args:
        model: the model after the last step.
        steps: optimizer steps that happened.
        examples: samples in the client's shard.
        metrics: what the module logged, averaged over the fit.
        measure: how `displacement` is had.
    """

    model: Model
    steps: int
    examples: int
    metrics: Mapping[str, float]
    displacement_fn: Callable[[], Mapping[str, float]] = field(default=dict, repr=False, compare=False)

    @property
    def displacement(self) -> Mapping[str, float]:
        """For each parameter how far the fit's own optimizer would have moved it under a gradient of 1, over the same steps,
        rates and proximal terms: K * lr for K plain steps. Those that no optimizer has are left out.

        Raises:
            Mistake: if the optimizer is not torch's SGD, or did not begin anew.
        """
        return self.displacement_fn()

    def delta(self, start: Model, buffers: bool = True) -> dict[str, Tensors]:
        """How far parameters moved from `start`, and buffers unless they are not asked for. In the dtypes that they have: an
        update is sent in float32, so float64 numbers move by what that can tell.

        Raises:
            Mistake: if an integer buffer moved further than float32 can tell.
        """
        delta: dict[str, Tensors] = {"parameters": sub(self.model.parameters, start.parameters)}
        if buffers:
            of = self.model.buffers.items()
            delta["buffers"] = {name: difference(name, new, start.buffers[name]) for name, new in of}
        return delta
