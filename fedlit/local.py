"""A client's local training: an unmodified LightningModule, fit by a short-lived Trainer. The only Lightning in the core."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import lightning.pytorch.trainer.connectors.callback_connector as callback_connector
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.model_helpers import is_overridden

from fedlit.bench import Bench
from fedlit.data.holdings import Holdings
from fedlit.logged import Log, size
from fedlit.messages import Fit, Model, Term
from fedlit.mistakes import Mistake
from fedlit.protocols import Batches
from fedlit.schedule import Schedule
from fedlit.streams import Purpose, seeded
from fedlit.tensors import Groups, Tensors
from fedlit.watch import Cut, Watch, kept

# Every Trainer asks all installed packages for callbacks again, which takes as long as the rest of its construction.
callback_connector._load_external_callbacks = functools.cache(callback_connector._load_external_callbacks)

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it says seven lines for each Trainer

Module = LightningModule

FIXED = {
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
class Recipe:
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
    rate: Callable[[int], float] | None = None
    keep: bool = False

    def following(self, schedule: Schedule) -> Recipe:
        """The same Trainers with the local work and the rates of a schedule."""
        rate = None if schedule.lr == "constant" else schedule.rate
        work = {"epochs": schedule.local_epochs, "steps": schedule.local_steps}
        return replace(self, **work, rate=rate, keep=schedule.client_state == "keep")

    def cut(self, steps: int) -> Recipe:
        """The same Trainers for fits that end after so many steps, >= 1, where they would take more."""
        return replace(self, callbacks=lambda: [*self.callbacks(), Cut(steps)])

    def trainer(self, *callbacks: Callback, **more: Any) -> Trainer:
        """A fresh Trainer that neither logs nor saves, and installs no handler of a cluster's signals."""
        return Trainer(**{**self.options, **FIXED, **more}, callbacks=list(callbacks), plugins=[LightningEnvironment()])


@dataclass(frozen=True)
class LocalTraining:
    """A client in one round: see `protocols.Local`.

    Args:
        bench: the worker's module.
        recipe: how a Trainer is made.
        holdings: whose `training` and `shard` batches are taken.
        examples: samples in the client's shard.
        round, client: what the fit's random numbers are keyed by.
        memory: what the client remembers.
        fits: what its fits came to, for the record.
        kept: what the fit adds to the memory.
    """

    bench: Bench
    recipe: Recipe
    holdings: Holdings
    examples: int
    round: int
    client: int
    memory: Groups = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    kept: dict[str, Tensors] = field(default_factory=dict)

    def fit(self, model: Model, *terms: Term) -> Fit:
        """Trains from `model`; a shard that gives no batch takes no step and logs nothing."""
        batches = self.holdings.training(self.round, self.client)
        if self.examples == 0 or len(batches) == 0:
            self.kept.update(kept(self.memory))
            return Fit(model, steps=0, examples=self.examples, metrics={})
        recipe, log = self.recipe, Log()
        limits = (
            {"max_epochs": recipe.epochs} if recipe.steps is None else {"max_epochs": -1, "max_steps": recipe.steps}
        )
        watch = Watch(log, terms, recipe.rate and recipe.rate(self.round), self.memory if recipe.keep else None)
        with seeded(self.holdings.seed, Purpose.MODEL, self.round, self.client), self.bench.logging_to(log):
            self.bench.load(model)
            trainer = recipe.trainer(watch, *recipe.callbacks(), **limits)
            trainer.fit(self.bench.module, batches, val_dataloaders=[])  # none, in so many words: else it warns
        self.kept.update(watch.kept)
        self.fits.append(Fit(self.bench.read(), watch.steps, self.examples, log.averages()))
        return self.fits[-1]

    def loss(self, model: Model) -> float:
        """Mean of `training_step` over the shard, weighted by batch size; 0 for an empty shard. In eval mode, on the device
        and in the precision of a fit.

        Raises:
            Mistake: if the module optimises by hand, since its `training_step` need not return a loss.
        """
        module = self.bench.module
        if not module.automatic_optimization:
            why = "optimises by hand: the loss of a client cannot be asked of its training_step"
            raise Mistake("model", type(module).__name__, why, "take an algorithm that does not ask for it")
        if self.examples == 0:
            return 0.0
        log, losses = Log(), _Losses(module)
        self.bench.load(model)
        with (
            seeded(self.holdings.seed, Purpose.EVALUATION, self.round, self.client),
            self.bench.logging_to(log),
        ):
            trainer = self.recipe.trainer(Watch(log), limit_val_batches=None, inference_mode=False)
            trainer.validate(losses, self.holdings.shard(self.client), verbose=False)
        return sum(float(loss) * size for loss, size in losses.found) / self.examples


class _Losses(LightningModule):
    """Stands around a module in a validation, and asks its `training_step` instead."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module
        self.found: list[tuple[torch.Tensor, int]] = []
        self.transfer_batch_to_device = module.transfer_batch_to_device
        self.on_before_batch_transfer = module.on_before_batch_transfer
        self.on_after_batch_transfer = module.on_after_batch_transfer

    def setup(self, stage: str) -> None:
        """The module is set up as for a fit."""
        self.module.setup("fit")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Notes the loss and the size of a batch."""
        output: Any = self.module.training_step(batch, batch_idx)
        self.found.append((output["loss"] if isinstance(output, Mapping) else output, size(batch)))


def evaluate(bench: Bench, recipe: Recipe, model: Model, batches: Batches, split: str, seed: int) -> dict[str, float]:
    """What the module logs on a split: by its `test_step` on the test set if it has one, otherwise by `validation_step`.

    A name that does not begin with the split's is put behind it: `loss` becomes `test/loss`.
    """
    log = Log()
    bench.load(model)
    test = split == "test" and is_overridden("test_step", bench.module)
    with seeded(seed, Purpose.EVALUATION), bench.logging_to(log):
        trainer = recipe.trainer(Watch(log), limit_val_batches=None)
        (trainer.test if test else trainer.validate)(bench.module, batches, verbose=False)
    return {_of_split(name, split): value for name, value in log.averages().items()}


def _of_split(name: str, split: str) -> str:
    if name.startswith(split):
        return name
    return f"{split}{name[3:]}" if split == "test" and name.startswith(("val_", "val/")) else f"{split}/{name}"
