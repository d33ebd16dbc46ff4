"""Clients with equal schedules, which one optimizer steps together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fedlit.client.fit.call import FitCall
from fedlit.client.steps.displacement import DisplacementTracker
from fedlit.client.steps.observer import has_gradients
from fedlit.client.steps.optimizer_state import read_state
from fedlit.client.steps.rates import ScaledRates
from fedlit.client.vectorized.lanes.clock import ClientClock, UnreadableBatch
from fedlit.client.vectorized.lanes.late_gradients import LateGradients
from fedlit.client.vectorized.lanes.lightning_optimization import make_optimizers
from fedlit.client.vectorized.lanes.optimizers import (
    client_part,
    clip_rows,
    keep_rows,
    load_states,
    optimizer_error,
    parameters_of,
    stack_optimizer,
    state_signature,
    takes_plain_steps,
)
from fedlit.client.vectorized.lanes.rows import ALL
from fedlit.client.vectorized.lanes.terms import StackedTerm
from fedlit.client.vectorized.recording.products import Gradient, Product
from fedlit.core.errors import ConfigError
from fedlit.core.tensors import Tensors


class Lane:
    """Clients with equal schedules, whose optimizers step together.

    A client that is done is frozen: its rows are no longer part of the optimizer.

    Args:
        calls: the clients' fits, the longest first.
        clock: progress of the clients.
        totals: batches of each client until it is done, in the order of `calls`.
        start: position of the first client in the stack.
    """

    def __init__(self, calls: Sequence[FitCall], clock: ClientClock, totals: Sequence[int], start: int) -> None:
        self.calls, self.clock, self.totals, self.start = calls, clock, totals, start
        self.active = len(calls)
        self.num_batches = 0  # so far
        self.steps = [0] * len(calls)
        self.optimizer_states: list[Mapping[str, Tensors]] = [{}] * len(calls)
        self.parameters: dict[str, nn.Parameter] = {}
        self._num_accumulated = 0

    @property
    def positions(self) -> range:
        """Positions in the stack of the clients that still train."""
        return range(self.start, self.start + self.active)

    def prepare(self, module: LightningModule, own: Mapping[str, nn.Parameter], stacks: Mapping[str, Tensor]) -> None:
        """Make the optimizer on the rows of the stack.

        Args:
            module: the module, whose optimizer it is.
            own: its parameters by name.
            stacks: all clients' parameters by name, shape (clients, ...).

        Raises:
            ConfigError: if the module's optimizer or scheduler does not suit several clients.
        """
        name, first = type(module).__name__, self.calls[0]
        optimizers, self._schedulers = make_optimizers(module)
        if not optimizers:
            raise ConfigError("model", name, "has no optimizer", "use executor=processes")
        (self.optimizer,) = optimizers
        if error := optimizer_error(self.optimizer):
            raise error
        if any(config.reduce_on_plateau for config in self._schedulers):
            problem = "follows a metric, and each client of a stack has its own value"
            raise ConfigError("model", "ReduceLROnPlateau", problem, "use executor=processes")
        rows = {
            key: nn.Parameter(stacks[key][self.start : self.start + self.active], p.requires_grad)
            for key, p in own.items()
        }
        stack_optimizer(self.optimizer, {id(parameter): rows[key] for key, parameter in own.items()}, name)
        self.parameters = {key: row for key, row in rows.items() if row.requires_grad}
        if state_signature(first.client_state):
            load_states(self.optimizer, [call.client_state or {} for call in self.calls])
        device = module.device
        self._terms = [
            StackedTerm(terms, device) for terms in zip(*(call.gradient_terms for call in self.calls), strict=True)
        ]
        self._stepped = {id(parameter) for parameter in parameters_of(self.optimizer)}
        self._rates = None if first.lr_factor is None else ScaledRates(first.lr_factor)
        self._clip = (
            first.config.options.get("gradient_clip_val"),
            first.config.options.get("gradient_clip_algorithm"),
        )
        self.late = LateGradients(self.optimizer, self.parameters)
        self._tracker = DisplacementTracker(keep=first.client_state is not None)

    @property
    def takes_late_gradients(self) -> bool:
        """True if nothing reads a gradient before its step."""
        has_readers = self._terms or self._clip[0] or self.clock.accumulate > 1
        return not has_readers and takes_plain_steps(self.optimizer)

    def add_gradients(self, rows: Any, gradients: Mapping[str, Gradient], is_last: bool) -> None:
        """Add the gradients of a batch.

        Args:
            rows: index of the active clients whose batches it were: see `rows_of`.
            gradients: their gradients by name, shape (rows, ...); a parameter that the loss does not reach has none.
            is_last: False if batches of other clients follow before the next step, whose gradients may use the same memory.
        """
        for name, gradient in gradients.items():
            parameter = self.parameters[name]
            if isinstance(gradient, Product):  # of all active clients, whose step comes next
                self.late.add(name, gradient)
                continue
            if self.clock.accumulate > 1:
                gradient = gradient / self.clock.accumulate
            if rows is not ALL:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad[rows] += gradient
            elif parameter.grad is None:
                parameter.grad = gradient if is_last or self.clock.accumulate > 1 else gradient.clone()
            else:
                parameter.grad += gradient

    def finish_batch(self) -> None:
        """End a batch: step if a step is due.

        Clients that are done are frozen.
        """
        self._num_accumulated += 1
        if self.clock.is_step_due:
            self._step()
            self._step_schedulers("step", self.clock.batch_idx)
        if self.clock.is_last_batch:
            self._step_schedulers("epoch", self.clock.epoch)
        self.clock.advance()
        self.num_batches += 1
        if (remaining := sum(total > self.num_batches for total in self.totals)) < self.active:
            self._freeze(remaining)

    def _step(self) -> None:
        fraction = self._num_accumulated / self.clock.accumulate
        trained = {name: parameter for name, parameter in self.parameters.items() if id(parameter) in self._stepped}
        limit, algorithm = self._clip
        for term in self._terms:
            term.add(trained, fraction)
        if limit:
            clip_rows(list(trained.values()), limit, algorithm or "norm")
        scaled = [] if self._rates is None else self._rates.scale(self.optimizer)
        has_stepped = self.late.step()
        self.optimizer.step()
        if has_stepped or has_gradients(self.optimizer):
            self._tracker.step(self.optimizer, fraction)
            for row in range(self.active):
                self.steps[row] += 1
        if self._rates is not None:
            self._rates.restore(scaled)
        for parameter in self.parameters.values():
            parameter.grad = None
        self._num_accumulated = 0
        self.clock.global_step += 1

    def _step_schedulers(self, interval: str, index: int) -> None:
        for config in self._schedulers:
            if config.interval == interval and (index + 1) % config.frequency == 0:
                config.scheduler.step()  # type: ignore[call-arg]

    def _freeze(self, remaining: int) -> None:
        if self.calls[0].client_state is not None:
            states = dict(read_state(self.optimizer, 0))
            for row in range(remaining, self.active):
                self.optimizer_states[row] = client_part(states, row)
        self.active = remaining
        if remaining:
            keep_rows(self.optimizer, remaining)

    def displacement(self, row: int) -> Any:
        """Return the function that computes a client's displacement."""
        return partial(self._tracker.read, self.parameters, self.steps[row], self.calls[row].gradient_terms)


def make_lanes(calls: Sequence[FitCall]) -> tuple[list[Lane], list[int]]:
    """Group clients by their schedules, the longest first.

    Returns:
        the lanes, and for each position in the stack the index of its call.
    """
    clocks = [_clock(call) for call in calls]
    totals = [_total(call, clock) for call, clock in zip(calls, clocks, strict=True)]
    groups: dict[Any, list[int]] = {}
    for index in sorted(range(len(calls)), key=lambda index: -totals[index]):
        call = calls[index]
        key = (clocks[index].num_batches, call.lr_factor, state_signature(call.client_state))
        groups.setdefault(key, []).append(index)
    lanes, order = [], []
    for members in groups.values():
        lanes.append(Lane([calls[i] for i in members], clocks[members[0]], [totals[i] for i in members], len(order)))
        order += members
    return lanes, order


def _clock(call: FitCall) -> ClientClock:
    options, config, num_batches = call.config.options, call.config, len(call.batches)
    limit = options.get("limit_train_batches")
    if isinstance(limit, int):
        num_batches = min(num_batches, limit)
    elif limit is not None and not (num_batches := int(num_batches * limit)) and limit:
        problem = f"limit_train_batches={limit} leaves no batch of {len(call.batches)}"
        raise UnreadableBatch(call, ValueError(problem))
    steps = config.steps if call.epochs is None else None
    epochs = config.epochs if call.epochs is None else call.epochs
    return ClientClock(num_batches, epochs, steps, int(options.get("accumulate_grad_batches") or 1))


def _total(call: FitCall, clock: ClientClock) -> int:
    """Return the number of batches until a client is done."""
    steps = clock.planned_steps if call.budget is None else min(clock.planned_steps, call.budget)
    return clock.batches_until(steps)
