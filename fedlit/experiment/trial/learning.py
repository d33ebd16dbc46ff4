"""A check that the module learns from a client's data."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fedlit.client.trainer import LocalTrainer
from fedlit.core.errors import ConfigError
from fedlit.experiment.trial.causes import module_name
from fedlit.server.setup import Federation


class FitObserver(Callback):
    """Counts the batches of a fit and the losses with gradients.

    Attributes:
        has_optimizer: True if an optimizer has a parameter of the module.
        num_batches: batches of all fits.
        num_losses: backward passes of all fits.
    """

    def __init__(self) -> None:
        self.has_optimizer, self.num_batches, self.num_losses = False, 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for an optimizer of the module's parameters."""
        own = {id(parameter) for parameter in pl_module.parameters()}
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self.has_optimizer |= any(id(parameter) in own for group in groups for parameter in group["params"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Count a batch."""
        self.num_batches += 1

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a loss."""
        self.num_losses += 1


def check_learning(federation: Federation, client: int, local: LocalTrainer) -> list[ConfigError]:
    """Refuse a module that trains nothing.

    A module may skip batches. So if the first batch trains nothing, the client's whole local work is tried.

    Args:
        federation: the federation.
        client: the client of the trial.
        local: its local training on one batch.
    """
    if _has_learned(federation, local):
        return []
    observer = FitObserver()
    local, _ = federation.dry_run(client, callbacks=[observer])
    if _has_learned(federation, local):
        return []
    batches = f"in {observer.num_batches} batches"
    if not observer.has_optimizer:
        problem, hint = "it has no optimizer", "return an optimizer of its parameters from configure_optimizers"
    elif observer.num_losses:
        problem = f"no parameter of its optimizers gets a gradient {batches}"
        hint = "give the optimizer the parameters on which the loss depends, and do not freeze all of them"
    elif federation.worker.replica.module.automatic_optimization:
        problem, hint = f"training_step returns no loss {batches}", "return the loss"
    else:
        problem, hint = (
            f"training_step makes no optimizer step {batches}",
            "call manual_backward, and step an optimizer",
        )
    return [ConfigError("model", module_name(federation), f"trains nothing: {problem}", hint)]


def _has_learned(federation: Federation, local: LocalTrainer) -> bool:
    """Return True unless all fits took no step and moved no parameter."""
    start = federation.algorithm.model(federation.initial_state().shared).parameters
    models = [fit.model.parameters for fit in local.results]
    moved = (not torch.equal(new[name], old) for new in models for name, old in start.items() if name in new)
    return not models or any(fit.steps for fit in local.results) or any(moved)
