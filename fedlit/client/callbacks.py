"""Callbacks of a client's Trainer, and the parts of the client state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from fedlit.aggregation.channel import CHANNEL_PREFIX
from fedlit.client.displacement import DisplacementTracker
from fedlit.client.lightning_internals import lr_schedulers, scales_gradients, set_max_steps
from fedlit.client.metrics import MetricAccumulator
from fedlit.core.errors import ConfigError
from fedlit.core.model import GradientTerm
from fedlit.core.tensors import Groups, Tensors
from fedlit.core.torch_internals import add_in_place, scheduler_parts, subtract

OPTIMIZER_PREFIX = "optimizer/"
"""Prefix of an optimizer's groups in the client state: `optimizer/NUMBER/PARAMETER`."""


class LocalTrainingCallback(Callback):
    """Follows one run of a Trainer.

    The callback counts optimizer steps, adds terms to gradients, scales learning rates and ends epochs of metrics.
    `displacement` tracks the optimizer steps. `optimizer_state` is filled at the end of training if `client_state` is given.

    Args:
        log: accumulator of the module's logged metrics.
        terms: terms that are added to every gradient.
        lr_factor: factor on the learning rates; None if they follow no schedule over rounds.
        client_state: groups with the optimizer state to start from; None for a fresh optimizer that is not kept.
    """

    def __init__(
        self,
        log: MetricAccumulator,
        terms: Sequence[GradientTerm] = (),
        lr_factor: float | None = None,
        client_state: Groups | None = None,
    ) -> None:
        self._log, self._lr_factor, self._client_state = log, lr_factor, client_state
        self._terms = [term for term in terms if term.mu or term.offset]
        self._hooked_steps = self.steps = self._num_batches = 0
        self._accumulated_fraction = 1.0  # batches accumulated for the current step / accumulate_grad_batches
        self.displacement = DisplacementTracker(self._terms, keep=client_state is not None)
        self.optimizer_state: dict[str, Tensors] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log.callback_metrics = trainer.callback_metrics
        _refuse_fused_with_scaler(trainer)
        for number, optimizer in enumerate(trainer.optimizers):
            optimizer.register_step_post_hook(self._count_step)
            if self._client_state:
                _load(optimizer, number, self._client_state)
        if self._lr_factor is not None:
            _scale_learning_rates(trainer, self._lr_factor)
        if self._terms:
            self._on_device = [_to_device(term, pl_module.device) for term in self._terms]
            self._names = {id(parameter): name for name, parameter in pl_module.named_parameters()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._terms and self._hooked_steps < self.steps:
            problem = (
                f"takes {self.steps} optimizer steps, and Lightning announces {self._hooked_steps} of them: "
                "the algorithm's terms are missing in the others"
            )
            hint = "step with self.optimizers(), not with torch's own optimizer"
            raise ConfigError("model", type(pl_module).__name__, problem, hint)
        if self._client_state is not None:
            self.optimizer_state = {
                name: state
                for number, optimizer in enumerate(trainer.optimizers)
                for name, state in _state_of(optimizer, number)
            }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._log.start_batch(batch)
        self._num_batches += 1

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._log.start_batch(batch)

    on_test_batch_start = on_validation_batch_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log.end_epoch()

    on_validation_epoch_end = on_train_epoch_end
    on_test_epoch_end = on_train_epoch_end

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the terms: papers mean the gradient before clipping.

        Lightning calls the hook after accumulation and unscaling, and before clipping.
        """
        self._hooked_steps += 1
        if pl_module.automatic_optimization:
            self._accumulated_fraction, self._num_batches = self._num_batches / trainer.accumulate_grad_batches, 0
        for term in self._on_device if self._terms else ():
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            _add(term, {self._names[id(p)]: p for p in parameters})

    def _count_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.steps += 1
        self.displacement.step(optimizer, self._accumulated_fraction)


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


def optimizer_state(client_state: Groups) -> dict[str, Tensors]:
    """Return the groups of a client state that belong to the optimizer."""
    return {name: state for name, state in client_state.items() if name.startswith(OPTIMIZER_PREFIX)}


def algorithm_state(client_state: Groups) -> Groups:
    """Return the groups of a client state that belong to the algorithm."""
    prefixes = (OPTIMIZER_PREFIX, CHANNEL_PREFIX)
    return {name: state for name, state in client_state.items() if not name.startswith(prefixes)}


def _state_of(optimizer: torch.optim.Optimizer, number: int) -> Iterator[tuple[str, Tensors]]:
    """Yield name and tensors of each parameter's optimizer state.

    Raises:
        ConfigError: if a part of the state is not a tensor.
    """
    for parameter, state in optimizer.state_dict()["state"].items():
        tensors = {key: value for key, value in state.items() if value is not None}
        if others := [key for key, value in tensors.items() if not isinstance(value, torch.Tensor)]:
            problem = f"cannot keep {', '.join(others)} of {type(optimizer).__name__}: only tensors can be kept"
            raise ConfigError("schedule.client_state", "keep", problem, "use reset")
        if tensors:
            yield (
                f"{OPTIMIZER_PREFIX}{number}/{parameter}",
                {key: value.detach().cpu().clone() for key, value in tensors.items()},
            )


def _load(optimizer: torch.optim.Optimizer, number: int, client_state: Groups) -> None:
    prefix = f"{OPTIMIZER_PREFIX}{number}/"
    groups = ((name, tensors) for name, tensors in client_state.items() if name.startswith(prefix))
    state = {int(name.removeprefix(prefix)): dict(tensors) for name, tensors in groups}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _scale_learning_rates(trainer: Trainer, factor: float) -> None:
    """Scale learning rates, and base rates of the module's own schedulers.

    Raises:
        ConfigError: if a scheduler does not compute its rates from base rates.
    """
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group.update({key: group[key] * factor for key in ("lr", "initial_lr") if key in group})
    for scheduler in lr_schedulers(trainer):
        for part in (scheduler, *scheduler_parts(scheduler)):
            if isinstance(part, OneCycleLR | CyclicLR):
                problem = f"cannot scale the learning rates of {type(part).__name__}, which sets them itself"
                hint = "use schedule.lr=constant, or another scheduler in the module"
                raise ConfigError("schedule.lr", "", problem, hint)
            if (rates := getattr(part, "base_lrs", None)) is not None:
                part.base_lrs = [base * factor for base in rates]


def _refuse_fused_with_scaler(trainer: Trainer) -> None:
    """Raise ConfigError if a fused optimizer meets a GradScaler.

    Before a fused step nothing is unscaled, and the step happens even when the scaler means to skip it.
    """
    if scales_gradients(trainer) and any(group.get("fused") for o in trainer.optimizers for group in o.param_groups):
        problem = "scales gradients, and a fused optimizer steps before they can be unscaled"
        hint = "set model.optimizer.fused=false, or trainer.precision=bf16-mixed"
        raise ConfigError("trainer.precision", trainer.precision, problem, hint)


def _to_device(term: GradientTerm, device: torch.device) -> GradientTerm:
    def move(tensors: Tensors | None) -> Tensors | None:
        return None if tensors is None else {name: tensor.to(device) for name, tensor in tensors.items()}

    return GradientTerm(term.mu, move(term.center), move(term.offset))


@torch.no_grad()
def _add(term: GradientTerm, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Add mu * (w - center) + offset to the parameters' gradients.

    The gradient of a parameter that the loss does not reach counts as 0.
    """
    if term.mu and term.center is not None:
        weights, centers, gradients = _matching(parameters, term.center)
        if weights:
            add_in_place(gradients, subtract(weights, centers), term.mu)
    if term.offset is not None:
        _, offsets, gradients = _matching(parameters, term.offset)
        if offsets:
            add_in_place(gradients, offsets)


def _matching(
    parameters: Mapping[str, torch.nn.Parameter], tensors: Tensors
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Select the parameters that `tensors` names.

    Returns:
        weights, their tensors, their gradients.
    """
    matches = {name: parameter for name, parameter in parameters.items() if name in tensors}
    for parameter in matches.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in matches.values() if parameter.grad is not None]
    return [parameter.detach() for parameter in matches.values()], [tensors[name] for name in matches], gradients
