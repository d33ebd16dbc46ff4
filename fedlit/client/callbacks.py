"""Callbacks of a client's Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fedlit.client.lightning_internals import scales_gradients, set_max_steps
from fedlit.client.steps.averaging import WeightGuard, averaging_callbacks
from fedlit.client.steps.displacement import DisplacementTracker
from fedlit.client.steps.observer import StepObserver, has_gradients
from fedlit.client.steps.optimizer_state import load_state, read_state
from fedlit.client.steps.rates import ScaledRates
from fedlit.client.steps.terms import FitTerms
from fedlit.core.errors import ConfigError
from fedlit.core.model import GradientTerm
from fedlit.core.tensors import Groups, Tensors

LENGTH = "and the algorithm divides by the length of the client's steps"


class LocalTrainingCallback(Callback):
    """Follows one run of a Trainer.

    The callback counts optimizer steps, adds terms to gradients and scales learning rates.
    `displacement` tracks the optimizer steps. `optimizer_state` is filled at the end of training if `client_state` is given.

    A term counts as part of each batch's loss. Lightning divides each batch's gradient by `accumulate_grad_batches`. So a step
    has less of a term if it accumulates fewer batches at the end of an epoch, or if batches have no loss; it has no term if no
    batch has a loss. Under manual optimization each step with gradients has the whole term.

    Args:
        terms: terms that are added to every gradient.
        lr_factor: factor on the learning rates; None if they follow no schedule over rounds.
        client_state: groups with the optimizer state to start from; None for a fresh optimizer that is not kept.
        guards_weights: True to find weights that change outside of optimizer steps; costs a copy of the weights in each step.
        hides_loss: True to give optimizers NaN for the loss.
    """

    def __init__(
        self,
        terms: Sequence[GradientTerm] = (),
        lr_factor: float | None = None,
        client_state: Groups | None = None,
        guards_weights: bool = False,
        hides_loss: bool = False,
    ) -> None:
        self._client_state, self._guards_weights, self._hides_loss = client_state, guards_weights, hides_loss
        self._terms = [term for term in terms if term.mu or term.offset]
        self._trainer: Trainer  # these three are set in on_fit_start
        self._is_automatic: bool
        self._fit_terms: FitTerms
        self._announced: set[torch.optim.Optimizer] = set()  # optimizers whose next step Lightning announced
        self._announced_steps = self.steps = 0
        self._num_accumulated = self._num_without_terms = 0  # batches whose gradients are accumulated
        rates = None if lr_factor is None else ScaledRates(lr_factor)
        self._guard = WeightGuard([])
        self._observer = StepObserver(rates, lambda: self._guard.compare(), self._add_to_loss, self._count_step)
        self.displacement = DisplacementTracker(self._terms, keep=client_state is not None)
        self.optimizer_state: dict[str, Tensors] = {}

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Observe the optimizer steps of the fit inside the block."""
        with self._observer.observe():
            yield
        self._guard.compare()
        if self._guard.changed:
            problem = (
                f"has weights that change outside of optimizer steps ({', '.join(self._guard.changed[:3])}), {LENGTH}"
            )
            hint = "leave out the hook or callback that changes them, or use another algorithm"
            self.displacement.refuse(ConfigError("model", self._module_name, problem, hint))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer, self._is_automatic = trainer, pl_module.automatic_optimization
        _refuse_fused_with_scaler(trainer)
        parameters = dict(pl_module.named_parameters())
        self._observer.set_parameters(parameters.values())
        self._module_name = type(pl_module).__name__
        if self._guards_weights:
            self._guard = WeightGuard(list(parameters.items()))
        for callback in averaging_callbacks(trainer.callbacks):  # type: ignore[attr-defined]
            problem, hint = f"replaces the weights by an average, {LENGTH}", "leave it out, or use another algorithm"
            self.displacement.refuse(ConfigError("trainer.callbacks", type(callback).__name__, problem, hint))
        self._fit_terms = FitTerms(self._terms, parameters, pl_module.device, trainer.optimizers)
        for number, optimizer in enumerate(trainer.optimizers):
            if self._client_state:
                load_state(optimizer, number, self._client_state)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._terms and self._announced_steps < self.steps:
            problem = (
                f"takes {self.steps} optimizer steps, and Lightning announces {self._announced_steps} of them: "
                "the algorithm's terms are missing in the others"
            )
            hint = "step with self.optimizers(), not with torch's own optimizer"
            raise ConfigError("model", type(pl_module).__name__, problem, hint)
        if self._client_state is not None:
            self.optimizer_state = {
                name: state
                for number, optimizer in enumerate(trainer.optimizers)
                for name, state in read_state(optimizer, number)
            }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._observer.close_all()

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._num_accumulated = self._num_without_terms = 0

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._num_accumulated += 1
        self._num_without_terms += 1

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the terms: papers mean the gradient before clipping.

        Lightning calls the hook after accumulation and unscaling, and before clipping.
        """
        self._announced.add(optimizer)
        if self._terms and (pl_module.automatic_optimization or has_gradients(optimizer)):
            self._fit_terms.add(optimizer, self._fraction(self._num_without_terms))
        self._num_without_terms = 0

    def _fraction(self, batches: int) -> float:
        """Return the share of batches in the number that a step accumulates."""
        return batches / self._trainer.accumulate_grad_batches if self._is_automatic else 1.0

    def _add_to_loss(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        if self._hides_loss:
            return torch.full_like(loss, torch.nan)
        return self._fit_terms.add_loss(loss, optimizer, self._fraction(1)) if self._terms else loss

    def _count_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.steps += 1
        self._announced_steps += optimizer in self._announced
        self._announced.discard(optimizer)
        self._guard.record()
        is_lightnings = optimizer in self._trainer.optimizers  # others do not follow Lightning's accumulation
        self.displacement.step(optimizer, self._fraction(self._num_accumulated) if is_lightnings else 1.0)


class StopAfterSteps(Callback):
    """Ends a fit after a number of optimizer steps.

    The module's own schedules stay those of a whole fit.

    Args:
        steps: optimizer steps, >= 1.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        set_max_steps(trainer, self._steps)


def _refuse_fused_with_scaler(trainer: Trainer) -> None:
    """Raise ConfigError if a fused optimizer meets a GradScaler.

    Before a fused step nothing is unscaled, and the step happens even when the scaler means to skip it.
    """
    if scales_gradients(trainer) and any(group.get("fused") for o in trainer.optimizers for group in o.param_groups):
        problem = "scales gradients, and a fused optimizer steps before they can be unscaled"
        hint = "set model.optimizer.fused=false, or trainer.precision=bf16-mixed"
        raise ConfigError("trainer.precision", trainer.precision, problem, hint)
