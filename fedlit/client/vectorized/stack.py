"""Several clients' fits as one fit of a stacked model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from fedlit.client.fit.call import FitCall, FitOutcome
from fedlit.client.vectorized.lanes.clock import DifferentClients
from fedlit.client.vectorized.lanes.lane import make_lanes
from fedlit.client.vectorized.lanes.rows import ALL, rows_of
from fedlit.client.vectorized.lanes.terms import stack_tensors
from fedlit.client.vectorized.recording.products import Product, has_large_rows
from fedlit.client.vectorized.stacked_module import StackedModule
from fedlit.client.vectorized.step.contrasts import stacked_contrasts
from fedlit.client.vectorized.step.logged import LoggedValues
from fedlit.client.vectorized.step.metric_states import MetricStates
from fedlit.client.vectorized.streams import IndexedBatch, JointBatch, JointBatches, get_generators, set_generators
from fedlit.core.model import Model
from fedlit.core.torch_internals import flatten_tree


class Stack:
    """Clients whose parameters are stacked, with one row a client.

    Args:
        calls: the clients' fits, with equal signatures.
        module: their module.
        contexts: what must be undone after the fit.
    """

    def __init__(self, calls: Sequence[FitCall], module: StackedModule, contexts: ExitStack) -> None:
        self._module, self._step, self._device, self._view = module, module.step, module.device, module.view
        self.lanes, self._order = make_lanes(calls)
        self._calls = [calls[index] for index in self._order]
        self._lane_of = [lane for lane in self.lanes for _ in lane.calls]
        models = [call.model for call in self._calls]
        self._weights = {
            name: module.memory.take(name, parameter, len(calls)) for name, parameter in module.parameters.items()
        }
        self._statistics = {
            name: self._stack(name, [model.buffers.get(name, buffer) for model in models], buffer)
            for name, buffer in module.buffers.items()
        }
        name, count = type(module.module).__name__, len(calls)
        self._states = MetricStates(name, module.metrics, count, self._step.recorded)
        self._logged = LoggedValues(count, self._device)
        self._frozen = contexts.enter_context(stacked_contrasts(module.module, self._calls))
        self._step.begin(self._states, self._frozen, is_recordable=not calls[0].contrasts)
        self._is_split = False
        for lane in self.lanes:
            self._view.show([lane.clock])
            lane.prepare(module.module, module.parameters, self._weights)
        shares = len(self.lanes) == 1 and self._step.recorded.is_pure and self.lanes[0].takes_late_gradients
        for name in module.parameters:
            self._start(name, stack_tensors([model.parameters[name] for model in models], self._device), shares)

    def _start(self, name: str, tensor: Tensor, shares: bool) -> None:
        """Set the first weights of a parameter.

        Their shape is (1, ...) or (clients, ...). If its gradient may be late, weights that all clients share stay one tensor
        until the first step.
        """
        stacked = self._weights[name]
        if shares and len(tensor) == 1 and name in self._module.trained and has_large_rows(stacked):
            # in memory of its own: bits of a product depend on the alignment, and a module may change a weight in place
            self.lanes[0].late.shared[name] = torch.empty_like(stacked[:1]).copy_(tensor)
        else:
            stacked.copy_(tensor)

    def _stack(self, name: str, tensors: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return a copy with one row for each client."""
        stacked = self._module.memory.take(name, like, len(tensors))
        return stacked.copy_(stack_tensors(tensors, self._device))

    def train(self, to_device: Callable[[JointBatch], JointBatch]) -> None:
        """Train all clients until they are done.

        Args:
            to_device: moves batches to the device.

        Raises:
            Exception: any exception of the module or its data.
        """
        for batch in JointBatches(self.lanes):
            self._take_step(to_device(batch))
        for lane in self.lanes:
            lane.late.fill()  # without a step

    def _take_step(self, batch: JointBatch) -> None:
        """Take the next step of each client that still trains."""
        for lane in self.lanes:
            if lane.active and lane.clock.batch_idx == 0 and lane.clock.epoch:
                self._states.reset(lane.positions, self._logged.logged_metrics())
        groups = self._group(batch)
        for group in groups:
            self._run(group, is_last=group is groups[-1])
        for lane in self.lanes:
            if lane.active:
                self._view.show([lane.clock])
                lane.finish_batch()

    def _group(self, batch: JointBatch) -> list[JointBatch]:
        """Group clients whose batches have the same structure and shapes."""
        groups: dict[Any, JointBatch] = {}
        for position, part in batch:
            clock = self._lane_of[position].clock
            key = (_shape_of(part), clock.batch_idx if self._step.reads_index else None, self._is_split and id(clock))
            groups.setdefault(key, []).append((position, part))
        return list(groups.values())

    def _run(self, group: JointBatch, is_last: bool) -> None:
        """Compute the gradients of some clients.

        Clients are split by their progress if the module reads it and it differs.

        Args:
            group: the clients and their batches.
            is_last: False if other clients follow before the next step.
        """
        if len({id(self._lane_of[position]) for position, _ in group}) == 1:  # then they have one progress
            self._differentiate(group, is_last)
            return
        random = get_generators()
        try:
            self._differentiate(group, is_last)
        except DifferentClients:
            set_generators(random)
            self._is_split = True  # also in the later steps of this fit
            for part in self._group(group):
                self._differentiate(part, is_last=False)

    def _differentiate(self, group: JointBatch, is_last: bool) -> None:
        positions = [position for position, _ in group]
        lanes = list(dict.fromkeys(self._lane_of[position] for position in positions))
        self._view.show([lane.clock for lane in lanes])
        index = rows_of(positions, len(self._calls), self._device)
        weights, buffers = (
            dict(tensors) if index is ALL else {name: value[index] for name, value in tensors.items()}
            for tensors in (self._weights, self._statistics)
        )
        trained = {name: weights.pop(name) for name in self._module.trained}
        for name, shared in lanes[0].late.shared.items():
            trained[name] = shared.expand(len(positions), *shared.shape[1:])
        states, batches = self._states.rows(index), [part for _, part in group]
        contrasts = [stack.rows(index, len(positions)) for stack in self._frozen]
        is_late = is_last and len(positions) == lanes[0].active and len(lanes) == 1 and lanes[0].takes_late_gradients
        result = self._step(trained, weights, buffers, states, contrasts, batches, lanes[0].clock.batch_idx, is_late)
        for name, value in result.buffers.items():
            if value is not buffers[name] or not isinstance(index, slice):
                self._statistics[name][index] = value
        self._states.store(index, result.states)
        epochs = [self._lane_of[position].clock.epoch for position in positions]
        self._logged.add(result.calls, result.values, index, (positions, epochs), group[0][1])
        for lane in lanes:
            own = [place for place, position in enumerate(positions) if self._lane_of[position] is lane]
            part = rows_of(own, len(positions), self._device)
            gradients = {
                name: gradient if part is ALL or isinstance(gradient, Product) else gradient[part]
                for name, gradient in result.gradients.items()
            }
            rows = [positions[place] - lane.start for place in own]
            lane.add_gradients(rows_of(rows, lane.active, self._device), gradients, is_last)

    def outcomes(self) -> list[FitOutcome]:
        """Return the results in the order of the calls."""
        metrics = self._logged.metrics(self._states.compute(self._logged.logged_metrics()))
        results: list[Any] = [None] * len(self._calls)
        persistent = self._calls[0].model.buffers
        parameters = {name: value.cpu().unbind() for name, value in self._weights.items()}
        buffers = {name: self._statistics[name].cpu().unbind() for name in persistent}
        for position, index in enumerate(self._order):
            lane = self._lane_of[position]
            row = position - lane.start
            model = Model(
                {name: rows[position] for name, rows in parameters.items()},
                {name: rows[position] for name, rows in buffers.items()},
            )
            state = lane.optimizer_states[row]
            results[index] = FitOutcome(model, lane.steps[row], metrics[position], lane.displacement(row), state)
        return results


def _shape_of(batch: Any) -> Any:
    """Return structure, shapes and other values of a batch."""
    if isinstance(batch, IndexedBatch):
        return IndexedBatch, id(batch.samples), len(batch.numbers)
    if type(batch) in (tuple, list) and all(isinstance(part, Tensor) for part in batch):  # the usual batch, quickly
        return type(batch), tuple((part.shape, part.dtype) for part in batch)
    leaves, structure = flatten_tree(batch)
    shapes = tuple(
        (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else (type(leaf), repr(leaf)) for leaf in leaves
    )
    return str(structure), shapes
