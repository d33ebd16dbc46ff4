"""The unmodified `training_step` of a module, for several clients at once."""

from __future__ import annotations

import dis
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedlit.client.vectorized.step.contrasts import FrozenStack
from fedlit.client.vectorized.step.logged import LogCall, LogRecorder
from fedlit.client.vectorized.step.metric_states import MetricStates, States
from fedlit.client.vectorized.streams import IndexedBatch
from fedlit.core.errors import ConfigError
from fedlit.core.torch_internals import flatten_tree, unflatten_tree

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

    gradients: Mapping[str, Tensor]
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
        states: the states of its metrics.
        frozen_stacks: frozen models of the clients, for contrasts.
    """

    def __init__(
        self,
        module: LightningModule,
        recorder: LogRecorder,
        states: MetricStates,
        frozen_stacks: Sequence[FrozenStack],
    ) -> None:
        self._frozen_stacks = frozen_stacks
        self._module, self._recorder, self._states = module, recorder, states
        self._call = _TrainingStep(module)
        self.reads_index = reads_batch_index(module) or states.have_running_means

    def __call__(
        self,
        trained: Mapping[str, Tensor],
        frozen: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        states: States,
        contrasts: Sequence[Mapping[str, Tensor]],
        batches: Sequence[Any],
        batch_idx: int,
    ) -> StepResult:
        """Run one batch of each client.

        Args:
            trained, frozen, buffers: the clients' tensors by name, shape (clients, ...).
            states: the states of their metrics.
            contrasts: the weights of their frozen models, in the order of `frozen_stacks`.
            batches: their batches, which have the same structure.
            batch_idx: number of the batch in its epoch.

        Raises:
            Exception: any exception of the module, or of torch if the step cannot run for several clients at once.
        """
        leaves, places, stacked, make_batch = stack_batches(batches)
        names: list[str] = []

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
        gradients, (new, new_states, values) = differentiate(trained, frozen, buffers, states, contrasts, stacked)
        return StepResult({name: gradients[name] for name in names}, new, new_states, self._recorder.calls, values)


def stack_batches(batches: Sequence[Any]) -> tuple[list[Any], list[int], list[Tensor], Callable[[list[Any]], Any]]:
    """Stack the tensors of batches of equal structure.

    Returns:
        the leaves of the first batch, the places of the tensors among them, the stacked tensors of shape (clients, ...), and
        the function that makes a batch of leaves.
    """
    first = batches[0]
    if isinstance(first, IndexedBatch):
        samples, numbers = first.samples, torch.cat([batch.numbers for batch in batches])
        x = samples.x[numbers]
        x = x if samples.prepare is None else samples.prepare(x)
        shape = (len(batches), len(first.numbers))
        stacked = [part.unflatten(0, shape) for part in (x, samples.y[numbers])]
        return [part[0] for part in stacked], [0, 1], stacked, tuple
    leaves, make_batch = flatten_batch(first)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    others = [flatten_batch(batch)[0] for batch in batches[1:]]
    return leaves, places, [torch.stack([leaves[i], *(other[i] for other in others)]) for i in places], make_batch


def flatten_batch(batch: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Return the leaves of a batch, and the function of its inverse."""
    if type(batch) in (tuple, list) and all(isinstance(part, Tensor) for part in batch):  # the usual batch, quickly
        return list(batch), type(batch)
    leaves, structure = flatten_tree(batch)
    return leaves, partial(unflatten_tree, structure=structure)


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
