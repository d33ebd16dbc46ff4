"""Gradient terms of an algorithm in a local fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer, SparseAdam

from fedlit.core.errors import ConfigError
from fedlit.core.model import GradientTerm
from fedlit.core.tensors import Tensors
from fedlit.core.torch_internals import add_in_place, subtract


class FitTerms:
    """Gradient terms on the device of a module, for the module's optimizers.

    Args:
        terms: the terms.
        parameters: the module's parameters by name.
        device: device of the module.
        optimizers: the optimizers of the fit.

    Raises:
        ConfigError: if an optimizer cannot take the terms.
    """

    def __init__(
        self,
        terms: Sequence[GradientTerm],
        parameters: Mapping[str, nn.Parameter],
        device: torch.device,
        optimizers: Sequence[Optimizer],
    ) -> None:
        self._terms = [_to_device(term, device) for term in terms]
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        if self._terms and any(isinstance(optimizer, SparseAdam) for optimizer in optimizers):
            problem = "takes sparse gradients alone, and the algorithm adds a dense term to each gradient"
            raise ConfigError("model.optimizer", "SparseAdam", problem, "use SGD or Adagrad")

    @torch.no_grad()
    def add(self, optimizer: Optimizer, fraction: float) -> None:
        """Add a fraction of each term to the optimizer's gradients.

        A term at w is mu * (w - center) + offset.
        The gradient of a parameter that the loss does not reach counts as 0. A sparse gradient becomes dense.
        """
        parameters = self._parameters(optimizer) if self._terms and fraction else {}
        for term in self._terms if parameters else ():
            if term.mu and term.center is not None:
                weights, centers, gradients = _matching(parameters, term.center)
                if weights:
                    add_in_place(gradients, subtract(weights, centers), fraction * term.mu)
            if term.offset is not None:
                _, offsets, gradients = _matching(parameters, term.offset)
                if offsets:
                    add_in_place(gradients, offsets, fraction)

    @torch.no_grad()
    def add_loss(self, loss: Tensor, optimizer: Optimizer, fraction: float) -> Tensor:
        """Add a fraction of the integral of each term to a loss.

        The integral of a term is mu / 2 * |w - center|^2 + <offset, w>.
        Optimizers that compare losses need it. Those of torch do not, except LBFGS, so they get the loss as it is.
        """
        if not (self._terms and fraction) or _ignores_loss(optimizer):
            return loss
        total = torch.zeros((), dtype=torch.float64, device=loss.device)
        parameters = self._parameters(optimizer)
        for term in self._terms:
            for name, parameter in parameters.items():
                w = parameter.detach().double()
                if term.mu and term.center is not None and name in term.center:
                    total += term.mu / 2 * (w - term.center[name].double()).square().sum()
                if term.offset is not None and name in term.offset:
                    total += (w * term.offset[name].double()).sum()
        return loss.double() + fraction * total

    def _parameters(self, optimizer: Optimizer) -> dict[str, nn.Parameter]:
        parameters = (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
        return {self._names[id(parameter)]: parameter for parameter in parameters if id(parameter) in self._names}


def _ignores_loss(optimizer: Optimizer) -> bool:
    return type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, LBFGS)


def _to_device(term: GradientTerm, device: torch.device) -> GradientTerm:
    def move(tensors: Tensors | None) -> Tensors | None:
        return None if tensors is None else {name: tensor.to(device) for name, tensor in tensors.items()}

    return GradientTerm(term.mu, move(term.center), move(term.offset))


def _matching(
    parameters: Mapping[str, nn.Parameter], tensors: Tensors
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Select the parameters that `tensors` names.

    Returns:
        weights, their tensors, their gradients.
    """
    matches = {name: parameter for name, parameter in parameters.items() if name in tensors}
    for parameter in matches.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.layout != torch.strided:
            parameter.grad = parameter.grad.to_dense()
    gradients = [parameter.grad for parameter in matches.values() if parameter.grad is not None]
    return [parameter.detach() for parameter in matches.values()], [tensors[name] for name in matches], gradients
