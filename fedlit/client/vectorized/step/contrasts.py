"""The contrastive loss of several clients, each with its own frozen models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from fedlit.client.fit.call import FitCall
from fedlit.client.losses.contrastive import FrozenModel, add_contrast, contrastive_loss
from fedlit.client.vectorized.lanes.terms import stack_tensors
from fedlit.core.model import Model


@dataclass
class FrozenStack:
    """A frozen model of each client.

    Args:
        frozen: computes features of one client's batch.
        weights: the clients' weights by name, shape (clients, ...), or (1, ...) if all are the same.
    """

    frozen: FrozenModel
    weights: Mapping[str, Tensor]

    def rows(self, positions: Any, count: int) -> dict[str, Tensor]:
        """Return the weights of some clients, shape (count, ...)."""
        return {
            name: value.expand(count, *value.shape[1:]) if len(value) == 1 else value[positions]
            for name, value in self.weights.items()
        }


@contextmanager
def stacked_contrasts(module: LightningModule, calls: Sequence[FitCall]) -> Iterator[list[FrozenStack]]:
    """Add the contrastive terms of several clients inside the block.

    Args:
        module: the module on its device.
        calls: the clients' fits, which have the same terms but for the weights of their models.

    Raises:
        ConfigError: if the module has no such layer.
    """
    stacks: list[FrozenStack] = []
    with ExitStack() as context:
        for terms in zip(*(call.contrasts for call in calls), strict=True):
            if terms[0].away is None:
                context.enter_context(contrastive_loss(module, calls[0].model, terms[0]))
                continue
            pairs = [(term.towards, term.away) for term in terms if term.away is not None]
            near, far = (_stack(module, calls, models, terms[0].layer) for models in zip(*pairs, strict=True))
            context.enter_context(add_contrast(module, terms[0], near.frozen, far.frozen))
            stacks += [near, far]
        yield stacks


def _stack(
    module: LightningModule, calls: Sequence[FitCall], models: Sequence[Model], layer: str | None
) -> FrozenStack:
    frozen = FrozenModel(module, models[0].fill_from(calls[0].model), layer)
    frozen.place_like(module)
    if len({id(model) for model in models}) == 1 and len({id(call.model) for call in calls}) == 1:
        full = [models[0].fill_from(calls[0].model).state_dict()] * len(models)
    else:
        full = [model.fill_from(call.model).state_dict() for model, call in zip(models, calls, strict=True)]
    dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    weights = {name: stack_tensors([one[name] for one in full], module.device).to(dtypes[name]) for name in full[0]}
    return FrozenStack(frozen, weights)
