"""The share of right predictions, as a light torchmetrics Metric."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class LightAccuracy(Metric):
    """The share of right predictions.

    It is the same number as torchmetrics' `MulticlassAccuracy(classes, average="micro")`, which also counts false and true
    negatives in each batch.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("correct", "total"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def __hash__(self) -> int:
        """Return a hash of the object alone.

        torchmetrics hashes the states too, in each walk over a module's parts.
        """
        return id(self)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count the right predictions of a batch.

        Args:
            predictions: classes, shape (n,).
            labels: classes, shape (n,).
        """
        self.correct = self.correct + (predictions == labels).sum()  # not in place: clients of a stack share the tensor
        self.total = self.total + labels.numel()

    def compute(self) -> Tensor:
        """Return the share of right predictions, float32; 0 without any."""
        return self.correct.float() / self.total.float().clamp(min=1)
