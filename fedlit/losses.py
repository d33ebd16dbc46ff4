"""What a module's `training_step` says of a client's samples without training on them."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import LightningModule

from fedlit.logged import size


class Losses(LightningModule):
    """Stands around a module in a validation, and asks its `training_step` instead, for gradients too if they are wanted."""

    def __init__(self, module: LightningModule, gradients: bool = False) -> None:
        super().__init__()
        self.module, self._wanted = module, gradients
        self._losses: list[tuple[torch.Tensor, int]] = []
        self._sums: dict[str, torch.Tensor] = {}
        self._takes = len(signature(module.training_step).parameters)  # Lightning lets the batch's number be left out
        self.transfer_batch_to_device = module.transfer_batch_to_device
        self.on_before_batch_transfer = module.on_before_batch_transfer
        self.on_after_batch_transfer = module.on_after_batch_transfer

    def setup(self, stage: str) -> None:
        """The module is set up as for a fit."""
        self.module.setup("fit")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Notes the loss and the size of a batch, and adds up gradients."""
        with torch.set_grad_enabled(self._wanted or torch.is_grad_enabled()):
            output: Any = self.module.training_step(*(batch, batch_idx)[: self._takes])
        loss = output["loss"] if isinstance(output, Mapping) else output
        self._losses.append((loss.detach(), size(batch)))
        if self._wanted:
            reached = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
            found = torch.autograd.grad(loss, list(reached.values()), allow_unused=True)
            for name, gradient in zip(reached, found, strict=True):
                if gradient is not None:
                    self._sums[name] = self._sums.get(name, 0.0) + gradient * size(batch)

    @property
    def loss(self) -> float:
        """Mean over the samples; 0 of none."""
        return sum(float(loss) * size for loss, size in self._losses) / max(1, self._examples)

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        """Of the mean over the samples, for the parameters that it reaches, on the CPU."""
        return {name: (total / self._examples).cpu() for name, total in self._sums.items()}

    @property
    def _examples(self) -> int:
        return sum(size for _, size in self._losses)
