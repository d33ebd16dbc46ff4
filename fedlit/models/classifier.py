"""A LightningModule for classification with any network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fedlit.core.errors import ConfigError, did_you_mean
from fedlit.models.accuracy import LightAccuracy


class Classifier(LightningModule):
    """A classifier that logs cross entropy and accuracy: train/loss, train/accuracy, val/loss, ...

    The hyper-parameters are plain values, so that `Classifier.load_from_checkpoint` opens the checkpoints of a run.

    Args:
        network: import path of the network's class; it is called with shape, classes and the arguments.
        shape: shape of one input.
        classes: number of classes, >= 2; for two classes a network may return one logit, that of class 1.
        optimizer: `name` in torch.optim, in any case, and its arguments.
        scheduler: `name` in torch.optim.lr_scheduler, its arguments and, for a scheduler that acts on each step,
            `interval: step`. Each local fit restarts it; `schedule.lr` changes the learning rate over rounds.
        arguments: further arguments of the network.

    Raises:
        ConfigError: if `classes` is below 2, or the optimizer or scheduler cannot be made.
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
                raise ConfigError(key, node, "must be a mapping of keys to values", "such as {name: sgd, lr: 0.01}")
        if classes < 2:
            hint = "use data with labels 0, 1, ..., or model=custom for another task than classification"
            raise ConfigError("classes", classes, "must be at least 2", hint)
        self.save_hyperparameters()
        module, _, name = network.rpartition(".")
        self.network: nn.Module = getattr(import_module(module), name)(shape=shape, classes=classes, **arguments)
        self.train_accuracy, self.val_accuracy, self.test_accuracy = (LightAccuracy() for _ in range(3))
        self.optimizer, self.scheduler = dict(optimizer), scheduler and dict(scheduler)
        self._make_optimizers([nn.Parameter(torch.zeros(1))])  # a wrong optimizer fails here and not in the first fit

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch; log train/loss and train/accuracy."""
        return self._step("train", batch, self.train_accuracy)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log val/loss and val/accuracy."""
        self._step("val", batch, self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log test/loss and test/accuracy."""
        self._step("test", batch, self.test_accuracy)

    def configure_optimizers(self) -> Any:
        """Return the optimizer of all parameters, and its scheduler."""
        return self._make_optimizers(self.parameters())

    def _make_optimizers(self, parameters: Iterable[nn.Parameter]) -> Any:
        optimizer = _instantiate(torch.optim, torch.optim.Optimizer, "optimizer", self.optimizer, parameters)
        if self.scheduler is None:
            return optimizer
        options = {key: value for key, value in self.scheduler.items() if key != "interval"}
        schedulers = torch.optim.lr_scheduler
        scheduler = _instantiate(schedulers, schedulers.LRScheduler, "scheduler", options, optimizer)
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


def _instantiate(module: Any, base: type, key: str, node: Mapping[str, Any], first: Any) -> Any:
    """Return an object of the class that the node names.

    Args:
        module: module of the class.
        base: a base class of the class: a module has other classes too.
        key: name of the node, for the error.
        node: `name` of the class, in any case, and its keyword arguments.
        first: first argument of the class.

    Raises:
        ConfigError: if there is no such class, or it refuses an argument.
    """
    name, options = node.get("name"), {option: value for option, value in node.items() if option != "name"}
    classes = _public_classes(module, base)
    if str(name).lower() not in classes:
        raise ConfigError(f"{key}.name", name, f"is not a class of {module.__name__}", did_you_mean(name, classes))
    target = classes[str(name).lower()]
    for option, value in options.items():
        if option not in _argument_names(target):
            raise ConfigError(
                f"{key}.{option}",
                value,
                f"is not an argument of {target.__name__}",
                f"leave it out: ~model.{key}.{option}",
            )
    try:
        return target(first, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(key, dict(node), f"is refused by {target.__name__}: {error}") from error


@cache  # each fit makes an optimizer
def _public_classes(module: ModuleType, base: type) -> dict[str, Any]:
    """Return public subclasses in a module, by lower-case names."""
    public = {key: value for key, value in vars(module).items() if isinstance(value, type) and not key.startswith("_")}
    return {key.lower(): value for key, value in public.items() if issubclass(value, base)}


@cache
def _argument_names(target: type) -> frozenset[str]:
    return frozenset(signature(target).parameters)
