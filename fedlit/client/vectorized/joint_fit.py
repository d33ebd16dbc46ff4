"""Fits of several clients by one Trainer, stack after stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule

from fedlit.client.fit.call import FitCall, FitOutcome
from fedlit.client.lightning_internals import trainer_scope
from fedlit.client.vectorized.gather import Answer, Outcome
from fedlit.client.vectorized.lanes.clock import TrainerView, UnreadableBatch
from fedlit.client.vectorized.lanes.lightning_optimization import attached
from fedlit.client.vectorized.memory import StackMemory
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.client.vectorized.stack import Stack
from fedlit.client.vectorized.stacked_module import StackedModule
from fedlit.client.vectorized.streams import JointBatch
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, seeded
from fedlit.data.datamodule import apply_hooks

WHOLE = {
    "limit_train_batches": None,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "max_epochs": 1,
}
"""Arguments of the Trainer of stacks, in which each client has its own epochs, steps and clipping."""

STACK_BYTES = 32 << 20
"""Weights of a stack whose steps are recorded, on a CPU: they stay in its cache from one step to the next."""


def fit_together(
    calls: Mapping[int, FitCall], recorded: RecordedSteps, memory: StackMemory, max_bytes: int | None, answer: Answer
) -> None:
    """Train clients with equal signatures as stacked models, by one Trainer.

    An exception of the module is that of each client in its stack.

    Args:
        calls: the clients' fits by their places, with equal signatures: see `stack_signature`.
        recorded: the recorded operations of the module's steps.
        memory: memory of stacked weights.
        max_bytes: weights of a stack on a CPU; None for stacks of all clients.
        answer: gets the place and the outcome of each fit, stack after stack.
    """
    first = next(iter(calls.values()))
    with trainer_scope(), first.replica.limit_warnings():
        try:
            first.replica.load(first.model, first.only)
        except Exception as error:  # of a model that is not one of this module; the rules decide
            for place in calls:
                answer(place, error)
            return
        fit = JointFit(calls, recorded, memory, max_bytes, answer)
        first.config.make_trainer(**WHOLE).fit(fit, train_dataloaders=Stacks(fit))


def stack_signature(call: FitCall) -> tuple[Any, ...]:
    """Return what fits that train as one stack must share."""

    def names(tensors: Mapping[str, Any] | None) -> tuple[str, ...] | None:
        return None if tensors is None else tuple(tensors)

    terms = tuple((names(term.center), names(term.offset)) for term in call.gradient_terms)
    contrasts = tuple((term.mu, term.temperature, term.layer, term.away is None) for term in call.contrasts)
    groups = call.model.groups() if isinstance(call.model, Model) else {}
    model = [(name, tuple((key, tensor.shape) for key, tensor in group.items())) for name, group in groups.items()]
    return call.round, call.key, call.only, call.epochs, terms, contrasts, tuple(model)


class JointFit(LightningModule):
    """Trains one stack after the other, each until its clients are done.

    Args:
        calls, recorded, memory, max_bytes, answer: see `fit_together`.
    """

    def __init__(
        self,
        calls: Mapping[int, FitCall],
        recorded: RecordedSteps,
        memory: StackMemory,
        max_bytes: int | None,
        answer: Answer,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._calls, self._first = calls, next(iter(calls.values()))
        self.module = self._first.replica.module
        self._recorded, self._memory, self._max_bytes, self._answer = recorded, memory, max_bytes, answer
        self._outcomes: dict[int, Outcome] = {}

    def configure_optimizers(self) -> list[Any]:
        """Return no optimizer: each lane of a stack has its own."""
        return []

    def on_fit_start(self) -> None:
        """Set up the module on the Trainer's device."""
        datamodule, precision = self._first.data.datamodule, self.trainer.precision
        view = TrainerView(type(self.module).__name__, datamodule=datamodule, precision=precision)
        parts = [part for part in self.module.modules() if isinstance(part, LightningModule)]
        with attached(parts, view):
            self.module.setup("fit")
        self._stacked = StackedModule(self.module, view, self._recorded, self._memory)

    def stacks(self) -> list[list[int]]:
        """Return the places of each stack's clients."""
        places, count = [*self._calls], len(self._calls)
        nbytes = sum(tensor.nbytes for tensor in self._first.model.parameters.values())
        limit = self._max_bytes if self.device.type == "cpu" else None
        size = count if limit is None else max(1, limit // max(1, nbytes))
        return [places[part.start : part.stop] for part in even_parts(count, size)]

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Train a stack without clients whose samples cannot be read.

        Args:
            batch: number of the stack.
            batch_idx: the same.
        """
        failed: dict[int, Exception] = {}
        places = self.stacks()[batch]
        rest = {place: self._calls[place] for place in places}
        while rest:
            try:
                outcomes = self._train([*rest.values()])
                self._outcomes.update(zip(rest, outcomes, strict=True))
                break
            except UnreadableBatch as unreadable:
                failed[unreadable.call.client] = unreadable.error
            except Exception as error:  # of the module; the rules decide
                self._outcomes.update(dict.fromkeys(rest, error))
                break
            rest = {place: _read_again(call) for place, call in rest.items() if call.client not in failed}
        self._outcomes.update({place: failed[self._calls[place].client] for place in places if place not in rest})

    def on_train_batch_end(self, outputs: Any, batch: int, batch_idx: int) -> None:
        """Answer the clients of a stack, outside of the Trainer's precision.

        Args:
            outputs: nothing.
            batch: number of the stack.
            batch_idx: the same.
        """
        for place in self.stacks()[batch]:
            self._answer(place, self._outcomes.pop(place))

    def _train(self, calls: Sequence[FitCall]) -> list[FitOutcome]:
        """Train clients as one stacked model.

        Random numbers of the model are drawn for all clients at once. They are keyed by the first client, so results depend on
        the clients that train together, and on nothing else.
        """
        first, module = calls[0], self._stacked
        with seeded(first.data.seed, Purpose.MODEL, first.round, first.client, first.key), ExitStack() as contexts:
            contexts.enter_context(attached(module.recorder.parts, module.view))
            stack = Stack(calls, module, contexts)  # it may copy the module, whose `log` must not be ours yet
            contexts.enter_context(module.recorder.recording())
            stack.train(self._to_device)
            return stack.outcomes()

    def _to_device(self, batch: JointBatch) -> JointBatch:
        """Move the clients' batches to the device, in the Trainer's precision.

        The hooks are those of the user's data module, if there is one.
        """
        datamodule = self._first.data.datamodule
        batch = batch if self._first.config.dtype is None else self.trainer.precision_plugin.convert_input(batch)
        if datamodule is not None:
            return [(position, apply_hooks(datamodule, self.trainer, part)) for position, part in batch]
        return batch if self.device.type == "cpu" else super().transfer_batch_to_device(batch, self.device, 0)


class Stacks:
    """The numbers of a Trainer's stacks; each is a batch.

    Args:
        fit: the fit, whose device is known when the epoch begins.
    """

    def __init__(self, fit: JointFit) -> None:
        self._fit = fit

    def __len__(self) -> int:
        return len(self._fit.stacks())

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))


def even_parts(count: int, size: int) -> Iterator[range]:
    """Yield ranges up to `size`, whose lengths differ by at most one."""
    parts = -(-count // size)
    for part in range(parts):
        yield range(count * part // parts, count * (part + 1) // parts)


def _read_again(call: FitCall) -> FitCall:
    """Return a fit with new batches: those before were read in part."""
    return replace(call, batches=call.data.train_batches(call.round, call.client, call.key))
