"""The callback that follows a client's Trainer: counts its steps, adds terms to its gradients, scales its rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from fedlit.client.displacement import DisplacementTracker
from fedlit.client.metrics import MetricAccumulator
from fedlit.core.errors import ConfigError
from fedlit.core.messages import GradientTerm
from fedlit.core.tensors import Groups, Tensors

OPTIMIZER_PREFIX = "optimizer/"
"""Beginning of the names under which an optimizer's state is in a client's memory: optimizer/NUMBER/PARAMETER."""


class LocalTrainingCallback(Callback):
    """Follows one run of a Trainer: counts the steps that happened, adds terms to gradients, scales rates, closes epochs.

    Args:
        log: what the module's logging goes to.
        terms: added to every gradient.
        rate: factor on the learning rates; None where they follow no schedule over rounds.
        memory: whose optimizer state is gone on with, and is in `kept` at the end; None for a fresh one.

    The strides of its steps are in `odometer`.
    """

    def __init__(
        self,
        log: MetricAccumulator,
        terms: Sequence[GradientTerm] = (),
        rate: float | None = None,
        memory: Groups | None = None,
    ) -> None:
        self._log, self._rate, self._memory = log, rate, memory
        self._terms = [term for term in terms if term.mu or term.offset]
        self._served = self.steps = self._batches = 0
        self._share = 1.0  # of the batches that a step is to accumulate, those that it has
        self.displacement = DisplacementTracker(self._terms, keep=memory is not None)
        self.optimizer_state: dict[str, Tensors] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log.callback_metrics = trainer.callback_metrics
        _refuse_fused_under_a_scaler(trainer)
        for number, optimizer in enumerate(trainer.optimizers):
            optimizer.register_step_post_hook(self._stepped)
            if self._memory:
                _load(optimizer, number, self._memory)
        if self._rate is not None:
            _scale(trainer, self._rate)
        if self._terms:
            self._on_device = [_moved(term, pl_module.device) for term in self._terms]
            self._names = {id(parameter): name for name, parameter in pl_module.named_parameters()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._terms and self._served < self.steps:
            why = f"steps {self.steps} times, {self._served} of them where Lightning lets a term be added"
            raise ConfigError(
                "model", type(pl_module).__name__, why, "step by self.optimizers(), not by torch's own optimizer"
            )
        if self._memory is not None:
            self.optimizer_state = {
                name: state for n, o in enumerate(trainer.optimizers) for name, state in _saved(o, n)
            }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._log.batch(batch)
        self._batches += 1

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._log.batch(batch)

    on_test_batch_start = on_validation_batch_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log.end_epoch()

    on_validation_epoch_end = on_train_epoch_end
    on_test_epoch_end = on_train_epoch_end

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """After accumulation and unscaling, before clipping: the place where a gradient is what the paper means by it."""
        self._served += 1
        if pl_module.automatic_optimization:
            self._share, self._batches = self._batches / trainer.accumulate_grad_batches, 0
        for term in self._on_device if self._terms else ():
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            _add(term, {self._names[id(p)]: p for p in parameters})

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.steps += 1
        self.displacement.step(optimizer, self._share)


class StopAfterSteps(Callback):
    """Ends a fit after so many steps. The module has seen the whole fit's plan: its own schedules are those of a whole fit."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = self._steps


def optimizer_state(memory: Groups) -> dict[str, Tensors]:
    """The part of a client's memory that is its optimizer's."""
    return {name: state for name, state in memory.items() if name.startswith(OPTIMIZER_PREFIX)}


def algorithm_state(memory: Groups) -> Groups:
    """The part of a client's memory that is the algorithm's."""
    return {name: state for name, state in memory.items() if not name.startswith(OPTIMIZER_PREFIX)}


def _saved(optimizer: torch.optim.Optimizer, number: int) -> Iterator[tuple[str, Tensors]]:
    """The optimizer's state for each parameter that it has some for.

    Raises:
        Mistake: if some of it is not a tensor.
    """
    for parameter, state in optimizer.state_dict()["state"].items():
        tensors = {key: value for key, value in state.items() if value is not None}
        if odd := [key for key, value in tensors.items() if not isinstance(value, torch.Tensor)]:
            why = f"cannot keep {', '.join(odd)} of {type(optimizer).__name__}: not tensors"
            raise ConfigError("schedule.client_state", "keep", why, "take reset")
        if tensors:
            yield (
                f"{OPTIMIZER_PREFIX}{number}/{parameter}",
                {key: value.detach().cpu().clone() for key, value in tensors.items()},
            )


def _load(optimizer: torch.optim.Optimizer, number: int, memory: Groups) -> None:
    begin = f"{OPTIMIZER_PREFIX}{number}/"
    state = {int(name.removeprefix(begin)): dict(tensors) for name, tensors in memory.items() if name.startswith(begin)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _scale(trainer: Trainer, rate: float) -> None:
    """Scales the learning rates, and what the module's own schedulers compute them from.

    Raises:
        Mistake: if a scheduler takes its rates from elsewhere.
    """
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group.update({key: group[key] * rate for key in ("lr", "initial_lr") if key in group})
    for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
        for part in (scheduler, *getattr(scheduler, "_schedulers", ())):  # SequentialLR and ChainedScheduler have parts
            if isinstance(part, OneCycleLR | CyclicLR):
                why = f"cannot scale the rates of {type(part).__name__}, which sets them itself"
                raise ConfigError(
                    "schedule.lr", "", why, "take schedule.lr=constant, or another scheduler in the module"
                )
            if (rates := getattr(part, "base_lrs", None)) is not None:
                part.base_lrs = [base * rate for base in rates]


def _refuse_fused_under_a_scaler(trainer: Trainer) -> None:
    """Raises Mistake: nothing is unscaled before a fused step, and it happens even when the scaler means to skip it."""
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    if scaled and any(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups):
        raise ConfigError(
            "trainer.precision",
            trainer.precision,
            "scales gradients, which a fused optimizer does not let be unscaled in time",
            "model.optimizer.fused=false, or trainer.precision=bf16-mixed",
        )


def _moved(term: GradientTerm, device: torch.device) -> GradientTerm:
    def move(tensors: Tensors | None) -> Tensors | None:
        return None if tensors is None else {name: tensor.to(device) for name, tensor in tensors.items()}

    return GradientTerm(term.mu, move(term.center), move(term.offset))


@torch.no_grad()
def _add(term: GradientTerm, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Adds mu * (w - center) + offset to the gradients of the parameters that the term names; one that the loss did not reach
    has a gradient of 0."""
    if term.mu and term.center is not None:
        near, centers, gradients = _matched(parameters, term.center)
        if near:
            torch._foreach_add_(gradients, torch._foreach_sub(near, centers), alpha=term.mu)
    if term.offset is not None:
        _, offsets, gradients = _matched(parameters, term.offset)
        if offsets:
            torch._foreach_add_(gradients, offsets)


def _matched(
    parameters: Mapping[str, torch.nn.Parameter], tensors: Tensors
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Parameters that are named, what they are named with, and their gradients."""
    there = {name: parameter for name, parameter in parameters.items() if name in tensors}
    for parameter in there.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in there.values() if parameter.grad is not None]
    return [parameter.detach() for parameter in there.values()], [tensors[name] for name in there], gradients
