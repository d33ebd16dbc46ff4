"""A LightningModule that trains any network to classify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from fedlit.core.errors import ConfigError, did_you_mean


class Classifier(LightningModule):
    """Cross entropy and accuracy, logged as train/loss, train/accuracy, val/loss, ... Its hyper-parameters are plain values,
    so that `Classifier.load_from_checkpoint` opens what a run leaves.

    Args:
        network: class of the network, as an import path; called with shape, classes and the arguments.
        shape: of one input.
        classes: number of classes, >= 2; a network may answer two with one logit, that of class 1.
        optimizer: `name` in torch.optim, any case, and its arguments.
        scheduler: `name` in torch.optim.lr_scheduler, its arguments and, if it is to act on each step, `interval: step`.
            It begins anew with each local fit; a rate that changes over rounds is `schedule.lr`.
        arguments: what else the network takes.
    """

    def __init__(
        self,
        network: str,
        shape: Sequence[int],
        classes: int,
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        for key, node in (("optimizer", optimizer), ("scheduler", scheduler or {})):
            if not isinstance(node, Mapping):
                raise ConfigError(key, node, "must be keys with values", "such as {name: sgd, lr: 0.01}")
        if classes < 2:
            remedy = "data whose labels are whole numbers from 0, or model=custom for another task than classification"
            raise ConfigError("classes", classes, "must be at least 2", remedy)
        self.save_hyperparameters()
        module, _, name = network.rpartition(".")
        self.network: nn.Module = getattr(import_module(module), name)(shape=shape, classes=classes, **arguments)
        accuracies = [MulticlassAccuracy(classes, average="micro", validate_args=False) for _ in range(3)]
        self.train_accuracy, self.val_accuracy, self.test_accuracy = accuracies
        self.optimizer, self.scheduler = dict(optimizer), scheduler and dict(scheduler)
        self._configured([nn.Parameter(torch.zeros(1))])  # says now what is wrong with the optimizer

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self._step("train", batch, self.train_accuracy)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs val/loss and val/accuracy."""
        self._step("val", batch, self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs test/loss and test/accuracy."""
        self._step("test", batch, self.test_accuracy)

    def configure_optimizers(self) -> Any:
        """The optimizer over all parameters, and the scheduler if there is one."""
        return self._configured(self.parameters())

    def _configured(self, parameters: Iterable[nn.Parameter]) -> Any:
        optimizer = _made(torch.optim, "optimizer", self.optimizer, parameters)
        if self.scheduler is None:
            return optimizer
        options = {key: value for key, value in self.scheduler.items() if key != "interval"}
        scheduler = _made(torch.optim.lr_scheduler, "scheduler", options, optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.scheduler.get("interval", "epoch")},
        }

    def _step(self, phase: str, batch: tuple[Tensor, Tensor], accuracy: Any) -> Tensor:
        x, y = batch
        logits = self(x)
        if logits.shape[1] == 1:
            loss = F.binary_cross_entropy_with_logits(logits.squeeze(1), y.to(logits.dtype))
            accuracy.update((logits.detach().squeeze(1) > 0).long(), y)
        else:
            loss = F.cross_entropy(logits, y)
            accuracy.update(logits.detach().argmax(1), y)
        self.log(f"{phase}/loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        self.log(f"{phase}/accuracy", accuracy, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


def _made(module: Any, key: str, node: Mapping[str, Any], first: Any) -> Any:
    """An object of the class that `name` names, in any case, made of the node's other values.

    Raises:
        Mistake: if there is no such class, or it does not take them.
    """
    name, options = node.get("name"), {option: value for option, value in node.items() if option != "name"}
    classes = {
        key.lower(): value for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")
    }
    if str(name).lower() not in classes:
        raise ConfigError(f"{key}.name", name, f"is not a class of {module.__name__}", did_you_mean(name, classes))
    target = classes[str(name).lower()]
    for option, value in options.items():
        if option not in signature(target).parameters:
            raise ConfigError(
                f"{key}.{option}",
                value,
                f"is not an argument of {target.__name__}",
                f"leave it out: ~model.{key}.{option}",
            )
    try:
        return target(first, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(key, dict(node), f"{target.__name__} refuses it: {error}") from error
