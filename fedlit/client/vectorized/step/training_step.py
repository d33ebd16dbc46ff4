"""The unmodified `training_step` of a module, for several clients at once."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedlit.client.vectorized.lanes.clock import TrainerView
from fedlit.client.vectorized.recording.products import Gradient
from fedlit.client.vectorized.recording.recorded import RecordedSteps
from fedlit.client.vectorized.step.batches import stack_batches
from fedlit.client.vectorized.step.contrasts import FrozenStack
from fedlit.client.vectorized.step.logged import LogCall, LogRecorder
from fedlit.client.vectorized.step.metric_states import MetricStates, States
from fedlit.core.errors import ConfigError
from fedlit.core.torch_internals import map_leaves

PREFIX = "module."


@dataclass(frozen=True)
class StepResult:
    """The result of one batch of several clients.

    Args:
        gradients: of the trained parameters that the loss reaches, by name; shape (clients, ...).
        buffers: new buffers by name, shape (clients, ...).
        states: new states of the torchmetrics.
        calls, values: the calls of `self.log`, and their values of shape (clients,).
    """

    gradients: Mapping[str, Gradient]
    buffers: Mapping[str, Tensor]
    states: States
    calls: Sequence[LogCall]
    values: Sequence[Tensor]


class StackedStep:
    """Runs a module's `training_step` and its gradient under `vmap`.

    Each client has the gradient of its own loss.

    Args:
        module: the module.
        recorder: records what it logs.
        recorded: the recorded operations of its steps.
        view: stands for the module's Trainer.
    """

    def __init__(
        self, module: LightningModule, recorder: LogRecorder, recorded: RecordedSteps, view: TrainerView
    ) -> None:
        self._recorder, self.recorded, self._view = recorder, recorded, view
        self._call, self._reads_index = _TrainingStep(module), reads_batch_index(module)

    def begin(self, states: MetricStates, frozen_stacks: Sequence[FrozenStack], is_recordable: bool) -> None:
        """Begin the steps of a stack.

        Args:
            states: the states of the clients' metrics.
            frozen_stacks: frozen models of the clients, for contrasts.
            is_recordable: False if more than names and shapes decides what a step does.
        """
        self._states, self._frozen_stacks, self._is_recordable = states, frozen_stacks, is_recordable
        self.reads_index = self._reads_index or states.have_running_means

    def __call__(
        self,
        trained: Mapping[str, Tensor],
        frozen: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        states: States,
        contrasts: Sequence[Mapping[str, Tensor]],
        batches: Sequence[Any],
        batch_idx: int,
        is_late: bool,
    ) -> StepResult:
        """Run one batch of each client.

        Args:
            trained, frozen, buffers: the clients' tensors by name, shape (clients, ...).
            states: the states of their metrics.
            contrasts: the weights of their frozen models, in the order of `frozen_stacks`.
            batches: their batches, which have the same structure.
            batch_idx: number of the batch in its epoch.
            is_late: True if large gradients may be a `Product`, which is used before the weights or batches change.

        Raises:
            Exception: any exception of the module, or of torch if the step cannot run for several clients at once.
        """
        leaves, places, stacked, make_batch = stack_batches(batches)
        others = tuple(leaf for place, leaf in enumerate(leaves) if place not in places)
        inputs = (trained, frozen, buffers, states, contrasts, stacked)

        def differentiate(tensors: Sequence[Tensor]) -> tuple[list[Tensor], _Names]:
            return self._differentiate(unflatten(inputs, tensors), leaves, places, make_batch, batch_idx)

        index, key = batch_idx if self.reads_index else None, None
        if self._is_recordable and all(isinstance(leaf, int | float | str | None) for leaf in others):
            key = (names_of(inputs), type(batches[0]), others, index)
        num_lasting = len(stacked) if is_late else None
        outputs, names = self.recorded.run(key, differentiate, leaves_of(inputs), num_lasting)
        gradients, new, new_states, values = unflatten(names.outputs, outputs)
        return StepResult(gradients, new, new_states, names.calls, values)

    def _differentiate(
        self,
        inputs: Any,
        leaves: Sequence[Any],
        places: Sequence[int],
        make_batch: Callable[[list[Any]], Any],
        batch_idx: int,
    ) -> tuple[list[Tensor], _Names]:
        """Run the step under the transforms of torch."""
        names: list[str] = []
        num_reads = self._view.num_reads

        def loss(trained: Any, frozen: Any, buffers: Any, states: Any, contrasts: Any, tensors: Any) -> Any:
            content = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                content[place] = tensor
            for stack, weights in zip(self._frozen_stacks, contrasts, strict=True):
                stack.frozen.weights = weights
            self._recorder.begin()
            with self._states.loaded(states, batch_idx):
                tensors_of = {
                    PREFIX + name: value for part in (trained, frozen, buffers) for name, value in part.items()
                }
                value, new = functional_call(self._call, tensors_of, (make_batch(content), batch_idx))
                new_states = self._states.read()
            names[:] = _reached(value, trained)
            return value, (new, new_states, self._recorder.values)

        differentiate = vmap(grad(loss, has_aux=True), randomness="different")
        try:
            gradients, (new, new_states, values) = differentiate(*inputs)
        finally:
            self._states.clear()
        if self._view.num_reads != num_reads:  # the step depends on the progress of the fit
            self.recorded.refuse()
        outputs = ({name: gradients[name] for name in names}, new, new_states, values)
        found = leaves_of(outputs), _Names(map_leaves(lambda _: None, outputs), self._recorder.calls)
        self._recorder.begin()  # it keeps no tensor of the transforms
        return found


@dataclass
class _Names:
    """Names and calls of one step, beside its tensors.

    Args:
        outputs: the structure of its tensors.
        calls: the calls of `self.log`.
    """

    outputs: Any
    calls: Sequence[LogCall]


def leaves_of(tree: Any) -> list[Tensor]:
    """Return the leaves of nested tuples, lists and dicts."""
    if isinstance(tree, Mapping):
        return [leaf for part in tree.values() for leaf in leaves_of(part)]
    return [leaf for part in tree for leaf in leaves_of(part)] if isinstance(tree, tuple | list) else [tree]


def names_of(tree: Any) -> Any:
    """Return the structure of nested tuples, lists and dicts, to compare."""
    if isinstance(tree, Mapping):
        return tuple((name, names_of(part)) for name, part in tree.items())
    return tuple(names_of(part) for part in tree) if isinstance(tree, tuple | list) else None


def unflatten(tree: Any, leaves: Sequence[Any]) -> Any:
    """Return a tree of the same structure with other leaves."""
    return _take(tree, iter(leaves))


def _take(tree: Any, leaves: Iterator[Any]) -> Any:
    if isinstance(tree, Mapping):
        return {name: _take(part, leaves) for name, part in tree.items()}
    return [_take(part, leaves) for part in tree] if isinstance(tree, tuple | list) else next(leaves)


class _TrainingStep(nn.Module):
    """Calls `training_step` where torch expects `forward`."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module
        self._takes_index = takes_batch_index(module)

    def forward(self, batch: Any, batch_idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the buffers after the step."""
        output = self.module.training_step(batch, batch_idx) if self._takes_index else self.module.training_step(batch)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            problem = f"returns {given} as the loss of training_step, and clients that train in a stack need one number"
            raise ConfigError("model", type(self.module).__name__, problem, "use executor=processes")
        return loss.reshape(()), dict(self.module.named_buffers())


def takes_batch_index(module: LightningModule) -> bool:
    """Return True if `training_step` takes the number of the batch."""
    parameters = signature(module.training_step).parameters.values()
    return len(parameters) > 1 or any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters)


def reads_batch_index(module: LightningModule) -> bool:
    """Return True if `training_step` may use the number of the batch.

    It does not if its code never loads its second argument.
    """
    function = getattr(module.training_step, "__func__", module.training_step)
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        return True
    names = code.co_varnames[1 : code.co_argcount]  # without self
    if len(names) < 2:
        return bool(code.co_flags & 0x04)  # *args
    is_read = any(
        step.argval == names[1] and not step.opname.startswith("STORE") for step in dis.get_instructions(code)
    )
    return is_read or names[1] in code.co_cellvars


def _reached(loss: Tensor, parameters: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the parameters that a loss depends on.

    An optimizer leaves out the others, as it leaves out a parameter without a gradient.
    """
    seen, queue, leaves = set(), [loss.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves.add(id(getattr(node, "variable", None)))
            queue += [following for following, _ in node.next_functions]
    return [name for name, parameter in parameters.items() if id(parameter) in leaves]
