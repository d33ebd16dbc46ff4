"""A client's local training: a short-lived Trainer fits an unmodified LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fedlit.client.callbacks import StopAfterSteps
from fedlit.client.dp_sgd.private_fit import PrivateTraining, refuse_statistics, start_private_fit
from fedlit.client.dp_sgd.settings import ExamplePrivacy
from fedlit.client.fit.call import FitCall, LocalWork
from fedlit.client.fit.light_trainer import new_trainer
from fedlit.client.fit.single import SingleWork
from fedlit.client.lightning_internals import trainer_scope
from fedlit.client.losses.shard import ShardLoss, measure_shard
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.refused_callbacks import RefuseModuleCallbacks, refuse_callbacks
from fedlit.client.steps.optimizer_state import optimizer_state
from fedlit.core.errors import ConfigError
from fedlit.core.messages import ClientFailure, Update
from fedlit.core.model import ContrastiveTerm, FitResult, GradientTerm, Model
from fedlit.core.tensors import Groups, Tensors
from fedlit.data.client_data import ClientData
from fedlit.data.protocols import Batches

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

PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
"""Full names of the short names of precisions, against which each Trainer would warn."""


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of clients' Trainers.

    Args:
        options: arguments of `lightning.Trainer`, none of FIXED_ARGS.
        callbacks: function that makes the callbacks of one fit; callbacks carry state, so no two fits may share them.
        epochs: passes over the shard.
        steps: optimizer steps; wins over `epochs` if it is not None.
        lr_factor: factor on the learning rate in a round, counted from 0; None for always 1.
        keep_optimizer: True if a client's optimizer resumes from its state of the client's last round.
        privacy: settings of DP-SGD; None for training without it.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], Sequence[Callback]] = list
    epochs: int = 1
    steps: int | None = None
    lr_factor: Callable[[int], float] | None = None
    keep_optimizer: bool = False
    privacy: ExamplePrivacy | None = None

    def __post_init__(self) -> None:
        if fixed := sorted(self.options.keys() & {*FIXED_ARGS, "callbacks", "plugins", "profiler"}):
            raise ConfigError("options", ", ".join(fixed), "is set by a local fit itself", "leave it out")
        if (precision := str(self.options.get("precision"))) in PRECISIONS:
            object.__setattr__(self, "options", {**self.options, "precision": PRECISIONS[precision]})

    def with_work(
        self, *, epochs: int, steps: int | None, lr_factor: Callable[[int], float] | None, keep_optimizer: bool
    ) -> TrainerConfig:
        """Return the same settings with other local work; see the class."""
        return replace(self, epochs=epochs, steps=steps, lr_factor=lr_factor, keep_optimizer=keep_optimizer)

    def with_budget(self, epochs: int | None = None, steps: int | None = None) -> TrainerConfig:
        """Return the same settings with other epochs, or with a step budget.

        Args:
            epochs: passes over the shard instead of the configured work; None keeps that work.
            steps: optimizer steps, >= 1, after which a longer fit ends; None for no budget.
        """
        config = self if epochs is None else replace(self, epochs=epochs, steps=None)
        return (
            config if steps is None else replace(config, callbacks=lambda: [*self.callbacks(), StopAfterSteps(steps)])
        )

    @property
    def dtype(self) -> torch.dtype | None:
        """Dtype of the federation's weights; None for the module's own dtypes.

        It is float64 in double precision. In other precisions the Trainer converts the module for a fit, and the federation's
        weights keep their dtypes.
        """
        return torch.float64 if self.options.get("precision") == "64-true" else None

    @property
    def duration(self) -> dict[str, int]:
        """Length of a fit, as arguments of a Trainer."""
        return {"max_epochs": self.epochs} if self.steps is None else {"max_epochs": -1, "max_steps": self.steps}

    def make_trainer(self, *callbacks: Callback, **more: Any) -> Trainer:
        """Return a new Trainer that neither logs nor saves.

        Raises:
            ConfigError: for a callback that is not allowed; if the module makes it, when the Trainer begins.
        """
        refuse_callbacks(callbacks)
        options = {**self.options, **FIXED_ARGS, **more}
        with trainer_scope():
            return new_trainer(**options, callbacks=[RefuseModuleCallbacks(), *callbacks])


@dataclass
class LocalTrainer:
    """The local trainer of a client in a round.

    Implements the protocol `Local` of `fedlit/algorithms/algorithm.py`: client rules call `fit`, `loss` and `gradient`.

    Args:
        replica: the worker's module.
        trainer_config: settings of the Trainers.
        data: source of the client's training and shard batches.
        examples: samples in the client's shard.
        round, client: keys of the fit's random numbers.
        client_state: the client's state before the round.
        step_budget: optimizer steps of all fits together after which training ends; None for no budget.
        results: results of the fits so far, for the record; metrics are kept for fits with key 0 only.
        optimizer_state: groups that the fits add to the client state.
        guards_weights: True to refuse a displacement if weights change outside of optimizer steps, which takes time.
        private: DP-SGD of the client in this round; None without privacy, and in an evaluation.
        work: runs the fits and measurements.
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
    guards_weights: bool = False
    private: PrivateTraining | None = None
    work: LocalWork = field(default_factory=SingleWork)

    @property
    def lr_factor(self) -> float:
        """Factor of `schedule.lr` on the learning rates in this round."""
        factor = self.trainer_config.lr_factor
        return 1.0 if factor is None else factor(self.round)

    @property
    def kept_state(self) -> dict[str, Tensors]:
        """Groups of the client state that belong to no algorithm."""
        return {**self.optimizer_state, **({} if self.private is None else self.private.history.groups())}

    def fit(
        self,
        model: Model,
        *terms: GradientTerm | ContrastiveTerm,
        only: Collection[str] | None = None,
        epochs: int | None = None,
        key: int = 0,
    ) -> FitResult:
        """Train from `model`; without a batch take no step.

        Raises:
            ConfigError: if a second fit in a round would start with the first one's optimizer, or if no accountant would
                count a fit with privacy.
        """
        private = start_private_fit(self.trainer_config.privacy, self.private, key)
        batches = self._batches(key) if private is None else private.batches
        budget = None if self.step_budget is None else self.step_budget - sum(fit.steps for fit in self.results)
        if self.examples == 0 or len(batches) == 0 or budget == 0 or (only is not None and not only):
            self.optimizer_state.update(optimizer_state(self.client_state))
            return FitResult(model, steps=0, examples=self.examples, metrics={})
        config = self.trainer_config
        if config.keep_optimizer and key:
            problem = "keeps one optimizer for each client, and the algorithm trains a client twice in a round"
            raise ConfigError("schedule.client_state", "keep", problem, "use reset")
        call = FitCall(
            replica=self.replica,
            config=config,
            data=self.data,
            round=self.round,
            client=self.client,
            key=key,
            model=model,
            gradient_terms=tuple(term for term in terms if isinstance(term, GradientTerm)),
            contrasts=tuple(term for term in terms if isinstance(term, ContrastiveTerm)),
            only=None if only is None else frozenset(only),
            epochs=epochs,
            budget=budget,
            batches=batches,
            lr_factor=config.lr_factor and self.lr_factor,
            client_state=self.client_state if config.keep_optimizer else None,
            guards_weights=self.guards_weights,
            private=private,
        )
        outcome = self.work.fit(call)
        self.optimizer_state.update(outcome.optimizer_state)
        result = FitResult(outcome.model, outcome.steps, self.examples, outcome.metrics, outcome.displacement_fn)
        self.results.append(result if key == 0 else replace(result, metrics={}))
        return result

    def _batches(self, key: int) -> Batches:
        return self.work.batches(key, partial(self.data.train_batches, self.round, self.client, key))

    def loss(self, model: Model) -> float:
        """Return the mean of `training_step` over the shard's samples, by batch size.

        Each batch counts by its `loss_weight`; the mean is 0 for an empty shard.
        The module is in eval mode, on the device and in the precision of a fit, and finds its optimizers and its hooks.

        Raises:
            ConfigError: if the module uses manual optimization, since its `training_step` need not return a loss; in private
                training, since the loss has no noise.
        """
        return self._measure(model, "the loss").loss

    def gradient(self, model: Model) -> dict[str, torch.Tensor]:
        """Return the gradient of `loss` for each parameter, on the CPU.

        The gradient is 0 for an empty shard, and for parameters that the loss does not reach.

        Raises:
            ConfigError: as `loss` does.
        """
        found = self._measure(model, "the gradient", gradients=True).gradients
        return {name: found.get(name, torch.zeros_like(old)).to(old.dtype) for name, old in model.parameters.items()}

    def _measure(self, model: Model, name: str, gradients: bool = False) -> ShardLoss:
        config = self.trainer_config
        place = {"examples": self.examples, "round": self.round, "client": self.client}
        refuse_statistics(config.privacy, name)
        make_trainer = partial(config.make_trainer, **config.duration)
        arguments = (self.replica, make_trainer, self.data, model)
        return self.work.measure(partial(measure_shard, *arguments, **place, gradients=gradients))


Reply = tuple[Update, LocalTrainer] | ClientFailure
