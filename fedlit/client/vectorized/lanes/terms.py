"""Gradient terms of several clients on their stacked parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedlit.client.vectorized.lanes.optimizers import along_rows
from fedlit.core.model import GradientTerm
from fedlit.core.tensors import Tensors


def stack_tensors(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return one tensor for all clients, or their stack.

    Returns:
        the tensor itself, with a first dimension of 1, if all clients have the same object; else shape (clients, ...).
    """
    first = tensors[0]
    if all(tensor is first for tensor in tensors):
        return first.to(device).unsqueeze(0)
    return torch.stack(list(tensors)).to(device)


class StackedTerm:
    """One gradient term of several clients.

    Args:
        terms: the term of each client; all have the same names.
        device: device of the parameters.
    """

    def __init__(self, terms: Sequence[GradientTerm], device: torch.device) -> None:
        factors = [term.mu for term in terms]
        self._mu = factors[0] if len(set(factors)) == 1 else torch.tensor(factors, device=device)
        self._centers = _stack([term.center for term in terms], device) if any(factors) else {}
        self._offsets = _stack([term.offset for term in terms], device)

    @torch.no_grad()
    def add(self, parameters: Mapping[str, nn.Parameter], fraction: float) -> None:
        """Add a fraction of the term to the clients' gradients.

        Args:
            parameters: trained parameters of the clients that still train, by name.
            fraction: factor on the term.
        """
        for name, parameter in parameters.items():
            rows = len(parameter)
            if (center := self._centers.get(name)) is not None:
                self._add_pull(parameter, parameter.detach() - center[:rows], fraction)
            if (offset := self._offsets.get(name)) is not None:
                gradient_of(parameter).add_(offset[:rows], alpha=fraction)

    def _add_pull(self, parameter: nn.Parameter, distance: Tensor, fraction: float) -> None:
        if isinstance(self._mu, Tensor):
            distance.mul_(along_rows(self._mu[: len(parameter)].to(distance.dtype), distance))
            gradient_of(parameter).add_(distance, alpha=fraction)
        else:
            gradient_of(parameter).add_(distance, alpha=fraction * self._mu)


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter.

    It is 0 if the loss does not reach the parameter.
    """
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _stack(parts: Sequence[Tensors | None], device: torch.device) -> dict[str, Tensor]:
    given = [part for part in parts if part is not None]
    return {name: stack_tensors([part[name] for part in given], device) for name in (given[0] if given else {})}
