"""Several clients' fits as one fit of a stacked model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fedlit.client.fit.call import FitCall, FitOutcome
from fedlit.client.lightning_internals import trainer_scope
from fedlit.client.vectorized.lanes.clock import DifferentClients, TrainerView
from fedlit.client.vectorized.lanes.lane import make_lanes
from fedlit.client.vectorized.lanes.lightning_optimization import attached
from fedlit.client.vectorized.lanes.terms import stack_tensors
from fedlit.client.vectorized.step.contrasts import stacked_contrasts
from fedlit.client.vectorized.step.logged import LoggedValues, LogRecorder
from fedlit.client.vectorized.step.metric_states import MetricStates
from fedlit.client.vectorized.step.training_step import StackedStep
from fedlit.client.vectorized.streams import IndexedBatch, JointBatch, JointBatches, get_generators, set_generators
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, seeded
from fedlit.core.torch_internals import flatten_tree
from fedlit.data.datamodule import apply_hooks

WHOLE = {
    "limit_train_batches": None,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "max_epochs": 1,
}
"""Arguments of the Trainer of a stack, in which each client has its own epochs, steps and clipping."""


def fit_stack(calls: Sequence[FitCall]) -> list[FitOutcome]:
    """Train clients as one stacked model, by one Trainer.

    Random numbers of the model are drawn for all clients at once. They are keyed by the first client, so results depend on the
    clients that train together, and on nothing else.

    Args:
        calls: fits with equal signatures; see `stack_signature`.

    Raises:
        Exception: any exception of the module or its data.
    """
    first = calls[0]
    with (
        seeded(first.data.seed, Purpose.MODEL, first.round, first.client, first.key),
        trainer_scope(),
        first.replica.limit_warnings(),
    ):
        first.replica.load(first.model, first.only)
        with ExitStack() as contexts:
            stack = StackedFit(calls, contexts)
            first.config.make_trainer(**WHOLE).fit(stack, train_dataloaders=JointBatches(stack.lanes))
        return stack.outcomes()


def stack_signature(call: FitCall) -> tuple[Any, ...]:
    """Return what fits that train as one stack must share."""

    def names(tensors: Mapping[str, Any] | None) -> tuple[str, ...] | None:
        return None if tensors is None else tuple(tensors)

    terms = tuple((names(term.center), names(term.offset)) for term in call.gradient_terms)
    contrasts = tuple((term.mu, term.temperature, term.layer, term.away is None) for term in call.contrasts)
    return call.round, call.key, call.only, call.epochs, terms, contrasts


class StackedFit(LightningModule):
    """A module whose parameters have one row for each client.

    Args:
        calls: the clients' fits.
        contexts: what must be undone after the fit.
    """

    def __init__(self, calls: Sequence[FitCall], contexts: ExitStack) -> None:
        super().__init__()
        self._contexts = contexts
        self.automatic_optimization = False
        self.module = calls[0].replica.module
        self.lanes, self._order = make_lanes(calls)
        self._calls = [calls[index] for index in self._order]
        self._lane_of = [lane for lane in self.lanes for _ in lane.calls]

    def configure_optimizers(self) -> list[Any]:
        """Return no optimizer: each lane has its own."""
        return []

    def on_fit_start(self) -> None:
        """Stack the clients' tensors on the Trainer's device, and make the optimizers."""
        module, first = self.module, self._calls[0]
        self._view = TrainerView(
            type(module).__name__, datamodule=first.data.datamodule, precision=self.trainer.precision
        )
        models = [call.model for call in self._calls]
        self._weights = {
            name: self._stack([model.parameters[name] for model in models], parameter)
            for name, parameter in module.named_parameters()
        }
        self._statistics = {
            name: self._stack([model.buffers.get(name, buffer) for model in models], buffer)
            for name, buffer in module.named_buffers()
        }
        self._trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._states = MetricStates(module, len(self._calls))
        self._recorder = LogRecorder(module, self._states.metrics)
        self._logged = LoggedValues(len(self._calls), self.device)
        self._frozen = self._contexts.enter_context(stacked_contrasts(module, self._calls))
        self._step = StackedStep(module, self._recorder, self._states, self._frozen)
        self._is_split = False
        with attached(module, self._view):
            module.setup("fit")
            for lane in self.lanes:
                self._view.show([lane.clock])
                lane.prepare(module, self._weights)

    def _stack(self, tensors: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return a new tensor with one row for each client."""
        stacked = stack_tensors(tensors, self.device).to(like.dtype)
        if len(stacked) == 1:
            return stacked.repeat(len(tensors), *[1] * like.dim())  # a copy also for one client: the fit writes to it
        return stacked

    def transfer_batch_to_device(self, batch: JointBatch, device: torch.device, dataloader_idx: int) -> JointBatch:
        """Move the clients' batches to the device.

        The hooks are those of the user's data module, if there is one.
        """
        datamodule = self._calls[0].data.datamodule
        if datamodule is None and device.type == "cpu":
            return batch
        if datamodule is None:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return [(position, apply_hooks(datamodule, self.trainer, part)) for position, part in batch]

    def training_step(self, batch: JointBatch, batch_idx: int) -> None:
        """Take the next step of each client that still trains."""
        for lane in self.lanes:
            if lane.active and lane.clock.batch_idx == 0 and lane.clock.epoch:
                self._states.reset(lane.positions, self._logged.logged_metrics())
        with attached(self.module, self._view), self._recorder.recording():
            for group in self._group(batch):
                self._run(group)
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

    def _run(self, group: JointBatch) -> None:
        """Compute the gradients of some clients.

        Clients are split by their progress if the module reads it and it differs.
        """
        random = get_generators()
        try:
            self._differentiate(group)
        except DifferentClients:
            set_generators(random)
            self._is_split = True  # also in the later steps of this fit
            for part in self._group(group):
                self._differentiate(part)

    def _differentiate(self, group: JointBatch) -> None:
        positions = [position for position, _ in group]
        lanes = list(dict.fromkeys(self._lane_of[position] for position in positions))
        self._view.show([lane.clock for lane in lanes])
        index = rows_of(positions)
        trained = {name: self._weights[name][index] for name in self._trained}
        frozen = {name: value[index] for name, value in self._weights.items() if name not in trained}
        buffers = {name: value[index] for name, value in self._statistics.items()}
        states, batches = self._states.rows(positions), [part for _, part in group]
        contrasts = [stack.rows(index, len(positions)) for stack in self._frozen]
        result = self._step(trained, frozen, buffers, states, contrasts, batches, lanes[0].clock.batch_idx)
        for name, value in result.buffers.items():
            if value is not buffers[name] or not isinstance(index, slice):
                self._statistics[name][index] = value
        self._states.store(positions, result.states)
        epochs = [self._lane_of[position].clock.epoch for position in positions]
        self._logged.add(result.calls, result.values, positions, epochs, group[0][1])
        for lane in lanes:
            own = [place for place, position in enumerate(positions) if self._lane_of[position] is lane]
            part = rows_of(own)
            gradients = {name: gradient[part] for name, gradient in result.gradients.items()}
            lane.add_gradients([positions[place] - lane.start for place in own], gradients)

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


def rows_of(positions: Sequence[int]) -> Any:
    """Return an index of rows: a slice if they follow each other."""
    is_range = positions[-1] - positions[0] == len(positions) - 1
    return slice(positions[0], positions[-1] + 1) if is_range else list(positions)


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
