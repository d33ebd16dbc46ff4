"""Gradients and weights that are computed when the optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedlit.client.vectorized.recording.products import Product


class LateGradients:
    """Large gradients of a lane whose optimizer takes plain steps.

    Args:
        optimizer: the optimizer.
        parameters: its lane's trained parameters by name, shape (clients, ...).

    Attributes:
        shared: weights that all clients still share, by name, shape (1, ...); the parameters get them with the first step.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
        self._optimizer, self._parameters = optimizer, parameters
        self._products: dict[str, Product] = {}
        self.shared: dict[str, Tensor] = {}

    def add(self, name: str, product: Product) -> None:
        """Keep a parameter's gradient until the step."""
        self._products[name] = product

    def step(self) -> bool:
        """Take the steps of the parameters whose gradients are late.

        Returns:
            True if there is such a parameter.
        """
        groups = {id(parameter): group for group in self._optimizer.param_groups for parameter in group["params"]}
        late = [(name, product) for name, product in self._products.items() if id(self._parameters[name]) in groups]
        self._products.clear()
        for name, product in late:
            parameter = self._parameters[name]
            product.add_to(parameter, -groups[id(parameter)]["lr"], self.shared.pop(name, None))
        self.fill()
        return bool(late)

    @torch.no_grad()
    def fill(self) -> None:
        """Copy shared weights to the parameters."""
        for name, weights in self.shared.items():
            self._parameters[name].copy_(weights)
        self.shared.clear()
