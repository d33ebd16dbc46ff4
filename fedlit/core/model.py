"""A model's tensors, terms of local training, the result of a fit.

An algorithm adds the terms to local training. All objects are frozen values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedlit.core.tensors import Groups, Tensors, apply_step, difference, sub

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Model:
    """The state of a module by name: parameters and buffers.

    An optimizer trains the parameters.
    """

    parameters: Tensors
    buffers: Tensors

    def __repr__(self) -> str:
        groups = {"parameters": self.parameters, "buffers": self.buffers}
        texts = [f"{sum(t.numel() for t in group.values()):,} {name}" for name, group in groups.items()]
        return f"Model({', '.join(texts)})"

    def groups(self) -> Groups:
        """Parameters and buffers as two groups of named tensors."""
        return {"parameters": self.parameters, "buffers": self.buffers}

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers under their names in the module."""
        return {**self.parameters, **self.buffers}

    def equals(self, other: Model) -> bool:
        """True if the other model has the same names and bit-identical tensors."""
        own, others = self.state_dict(), other.state_dict()
        return own.keys() == others.keys() and all(tensor.equal(others[name]) for name, tensor in own.items())

    def add(self, step: Groups) -> Model:
        """The model moved by a step.

        The sum is computed in float64; integers move by whole numbers. Names without a step stay the same.
        """
        return Model(
            *(
                {name: apply_step(old, step.get(group, {}).get(name)) for name, old in tensors.items()}
                for group, tensors in self.groups().items()
            )
        )

    def fill_from(self, other: Model) -> Model:
        """The other model, with this model's tensors where it has them."""
        own = self.groups()
        return Model(
            *({k: own[group].get(k, t) for k, t in tensors.items()} for group, tensors in other.groups().items())
        )


@dataclass(frozen=True)
class GradientTerm:
    """A term that is added to the gradient in every local step.

    The term at w is mu * (w - center) + offset. A term is data, so it crosses to workers.
    """

    mu: float = 0.0
    center: Tensors | None = None
    offset: Tensors | None = None


@dataclass(frozen=True)
class ContrastiveTerm:
    """Adds a contrastive loss to the loss of every local step.

    The loss is mu * -log(e^(sim(z, g) / T) / (e^(sim(z, g) / T) + e^(sim(z, b) / T))), a mean over the batch. The features
    z are those of the trained model, g those of `towards`, b those of `away`, and sim is their cosine similarity.

    Args:
        mu: weight of the loss.
        temperature: T.
        towards: model whose features attract.
        away: model whose features repel; None for no contrastive loss.
        layer: path of the layer whose output is the features; None for the input of the last layer.
    """

    mu: float
    temperature: float
    towards: Model
    away: Model | None
    layer: str | None = None


@dataclass(frozen=True)
class FitResult:
    """Result of one client's local training.

    Args:
        model: the model after the last step.
        steps: number of optimizer steps.
        examples: number of examples in the client's shard.
        metrics: logged metrics, averaged over the fit.
        displacement_fn: computes `displacement`.
    """

    model: Model
    steps: int
    examples: int
    metrics: Mapping[str, float]
    displacement_fn: Callable[[], Mapping[str, float]] = field(default=dict, repr=False, compare=False)

    @property
    def displacement(self) -> Mapping[str, float]:
        """Distance the optimizer would move each parameter under a gradient of 1.

        The optimizer is the fit's own. The distance covers the same steps, rates and proximal terms: K * lr for K plain steps.
        Parameters without an optimizer are left out.

        Raises:
            ConfigError: if the optimizer is not torch's SGD, or did not start fresh.
        """
        return self.displacement_fn()

    def delta(self, start: Model, buffers: bool = True) -> dict[str, Tensors]:
        """The change since `start` of the parameters and, if wanted, the buffers.

        The tensors keep their dtypes. An update is sent in float32, so a float64 number moves with that precision.

        Raises:
            ConfigError: if an integer buffer moved further than float32 can represent.
        """
        delta: dict[str, Tensors] = {"parameters": sub(self.model.parameters, start.parameters)}
        if buffers:
            items = self.model.buffers.items()
            delta["buffers"] = {name: difference(name, new, start.buffers[name]) for name, new in items}
        return delta
