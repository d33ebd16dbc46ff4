"""A client's local training: an unmodified LightningModule, fit by a short-lived Trainer. The only Lightning in the core."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import lightning.pytorch.trainer.connectors.callback_connector as callback_connector
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.model_helpers import is_overridden

from fedlit.client.callbacks import LocalTrainingCallback, StopAfterSteps, optimizer_state
from fedlit.client.losses import ShardLoss, contrastive_loss
from fedlit.client.metrics import MetricAccumulator
from fedlit.client.replica import ModuleReplica
from fedlit.core.errors import ConfigError
from fedlit.core.messages import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.streams import Purpose, seeded
from fedlit.core.tensors import Groups, Tensors
from fedlit.data.client_data import ClientData
from fedlit.data.protocols import Batches
from fedlit.data.samples import Loading
from fedlit.server.schedule import Schedule

# Every Trainer asks all installed packages for callbacks again, which takes as long as the rest of its construction.
callback_connector._load_external_callbacks = functools.cache(callback_connector._load_external_callbacks)

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it says seven lines for each Trainer

Module = LightningModule

FIXED_ARGS = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "devices": 1,
}
"""Trainer arguments that a local fit sets itself."""


@dataclass(frozen=True)
class TrainerConfig:
    """How a client's Trainer is made.

    Args:
        options: arguments of `lightning.Trainer`, none of FIXED.
        callbacks: makes the callbacks of one fit: they carry state, so no two fits may share them.
        epochs: passes over the shard.
        steps: optimizer steps; wins over `epochs` if it is not None.
        rate: factor on the learning rate in a round, counted from 0; None for always 1.
        keep: whether a client's optimizer goes on where it was when the client last took part.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], Sequence[Callback]] = list
    epochs: int = 1
    steps: int | None = None
    lr_factor: Callable[[int], float] | None = None
    keep_optimizer: bool = False

    def with_schedule(self, schedule: Schedule) -> TrainerConfig:
        """The same Trainers with the local work and the rates of a schedule."""
        rate = None if schedule.lr == "constant" else schedule.lr_factor
        work = {"epochs": schedule.local_epochs, "steps": schedule.local_steps}
        return replace(self, **work, lr_factor=rate, keep_optimizer=schedule.client_state == "keep")

    def with_budget(self, epochs: int | None = None, steps: int | None = None) -> TrainerConfig:
        """The same Trainers for fits of another number of epochs, which end after so many steps, >= 1, where they would take
        more; None leaves either."""
        asked = self if epochs is None else replace(self, epochs=epochs, steps=None)
        return asked if steps is None else replace(asked, callbacks=lambda: [*self.callbacks(), StopAfterSteps(steps)])

    @property
    def duration(self) -> dict[str, int]:
        """How much a fit does, as arguments of a Trainer."""
        return {"max_epochs": self.epochs} if self.steps is None else {"max_epochs": -1, "max_steps": self.steps}

    def make_trainer(self, *callbacks: Callback, **more: Any) -> Trainer:
        """A fresh Trainer that neither logs nor saves, and installs no handler of a cluster's signals."""
        return Trainer(
            **{**self.options, **FIXED_ARGS, **more}, callbacks=list(callbacks), plugins=[LightningEnvironment()]
        )


@dataclass(frozen=True)
class LocalTrainer:
    """A client in one round: see `protocols.Local`.

    Args:
        bench: the worker's module.
        recipe: how a Trainer is made.
        holdings: whose `training` and `shard` batches are taken.
        examples: samples in the client's shard.
        round, client: what the fit's random numbers are keyed by.
        memory: what the client remembers.
        budget: optimizer steps of all its fits together after which it is cut short; None where it is not.
        fits: what its fits came to, for the record: what the module logged in those whose key is 0.
        kept: what the fit adds to the memory.
    """

    replica: ModuleReplica
    trainer_config: TrainerConfig
    data: ClientData
    examples: int
    round: int
    client: int
    client_state: Groups = field(default_factory=dict)
    step_budget: int | None = None
    results: list[FitResult] = field(default_factory=list)
    optimizer_state: dict[str, Tensors] = field(default_factory=dict)

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        epochs: int | None = None,
        key: int = 0,
    ) -> FitResult:
        """Trains from `model`; a shard that gives no batch takes no step and logs nothing.

        Raises:
            Mistake: if a second fit in a round is to go on with the first one's optimizer.
        """
        batches = self.data.train_batches(self.round, self.client, key)
        left = None if self.step_budget is None else self.step_budget - sum(fit.steps for fit in self.results)
        if self.examples == 0 or len(batches) == 0 or left == 0 or (only is not None and not only):
            self.optimizer_state.update(optimizer_state(self.client_state))
            return FitResult(model, steps=0, examples=self.examples, metrics={})
        recipe, log = self.trainer_config.with_budget(epochs, left), MetricAccumulator()
        if recipe.keep_optimizer and key:
            why = "has one optimizer to keep for a client, and the algorithm trains it more than once in a round"
            raise ConfigError("schedule.client_state", "keep", why, "take reset")
        watch = LocalTrainingCallback(
            log,
            [term for term in terms if isinstance(term, GradientTerm)],
            recipe.lr_factor and recipe.lr_factor(self.round),
            self.client_state if recipe.keep_optimizer else None,
        )
        contrasts = [term for term in terms if isinstance(term, ContrastiveTerm)]
        with (
            seeded(self.data.seed, Purpose.MODEL, self.round, self.client, key),
            self.replica.redirect_log(log),
            ExitStack() as stack,
        ):
            self.replica.load(model, only)
            for contrast in contrasts:
                stack.enter_context(contrastive_loss(self.replica.module, model, contrast))
            trainer = recipe.make_trainer(watch, *recipe.callbacks(), **recipe.duration)
            trainer.fit(self.replica.module, batches, val_dataloaders=[])  # none, in so many words: else it warns
        self.optimizer_state.update(watch.optimizer_state)
        measure = partial(watch.displacement.read, dict(self.replica.module.named_parameters()))
        fit = FitResult(self.replica.read(), watch.steps, self.examples, log.averages(), measure)
        self.results.append(fit if key == 0 else replace(fit, metrics={}))
        return fit

    def loss(self, model: Model) -> float:
        """Mean of `training_step` over the shard, weighted by batch size; 0 for an empty shard. In eval mode, on the device
        and in the precision of a fit.

        Raises:
            Mistake: if the module optimises by hand, since its `training_step` need not return a loss.
        """
        return self._asked(model, ShardLoss(self.replica.module)).loss

    def gradient(self, model: Model) -> dict[str, torch.Tensor]:
        """Gradient of `loss` for each parameter, on the CPU; 0 for an empty shard and where the loss does not reach.

        Raises:
            Mistake: if the module optimises by hand.
        """
        found = self._asked(model, ShardLoss(self.replica.module, gradients=True)).gradients
        return {name: found.get(name, torch.zeros_like(old)) for name, old in model.parameters.items()}

    def _asked(self, model: Model, losses: ShardLoss) -> ShardLoss:
        module, log = self.replica.module, MetricAccumulator()
        if not module.automatic_optimization:
            why = "optimises by hand: the loss of a client cannot be asked of its training_step"
            raise ConfigError(
                "model", type(module).__name__, why, "take an algorithm and a sampler that do not ask for it"
            )
        if self.examples == 0:
            return losses
        self.replica.load(model)
        with (
            seeded(self.data.seed, Purpose.EVALUATION, self.round, self.client),
            self.replica.redirect_log(log),
        ):
            trainer = self.trainer_config.make_trainer(
                LocalTrainingCallback(log), limit_val_batches=None, inference_mode=False
            )
            trainer.validate(losses, self.data.shard_batches(self.client), verbose=False)
        return losses


def evaluate_split(
    bench: ModuleReplica, recipe: TrainerConfig, model: Model, batches: Batches, split: str, seed: int
) -> dict[str, float]:
    """What the module logs on a split: by its `test_step` on the test set if it has one, otherwise by `validation_step`.

    A name that does not begin with the split's is put behind it: `loss` becomes `test/loss`.
    """
    log = MetricAccumulator()
    bench.load(model)
    test = split == "test" and is_overridden("test_step", bench.module)
    with seeded(seed, Purpose.EVALUATION), bench.redirect_log(log):
        trainer = recipe.make_trainer(LocalTrainingCallback(log), limit_val_batches=None)
        (trainer.test if test else trainer.validate)(bench.module, batches, verbose=False)
    return {_of_split(name, split): value for name, value in log.averages().items()}


def _of_split(name: str, split: str) -> str:
    if name.startswith(split):
        return name
    return f"{split}{name[3:]}" if split == "test" and name.startswith(("val_", "val/")) else f"{split}/{name}"


def planned_steps(recipe: TrainerConfig, loading: Loading, samples: np.ndarray) -> np.ndarray:
    """Optimizer steps of a client's local training in a round, for each number of samples, shape (n,)."""
    options = recipe.options
    size = loading.local_batch_size or np.maximum(samples, 1)
    batches = samples // size if loading.drop_last else -(-samples // size)
    limit = options.get("limit_train_batches")
    if isinstance(limit, int):
        batches = np.minimum(batches, limit)
    elif limit is not None:
        batches = (batches * limit).astype(np.int64)
    epoch = -(-batches // int(options.get("accumulate_grad_batches") or 1))
    return np.where(batches == 0, 0, recipe.steps or recipe.epochs * epoch)
