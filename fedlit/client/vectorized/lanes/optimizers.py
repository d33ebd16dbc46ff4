"""Optimizers whose tensors have one row for each client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from inspect import unwrap
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from fedlit.client.steps.optimizer_state import OPTIMIZER_PREFIX
from fedlit.core.errors import ConfigError
from fedlit.core.tensors import Groups, Tensors
from fedlit.core.torch_internals import takes_own_steps

ELEMENTWISE = (SGD, Adam, AdamW, Adagrad, RMSprop, Adadelta, Adamax, NAdam, RAdam)
"""Optimizers of torch whose step treats each number of a parameter alone."""


def optimizer_error(optimizer: Optimizer) -> ConfigError | None:
    """Return the error of an optimizer that is not elementwise, or None."""
    kind = type(optimizer)
    if any(issubclass(kind, known) and unwrap(kind.step) is unwrap(known.step) for known in ELEMENTWISE):
        return None
    names = ", ".join(known.__name__ for known in ELEMENTWISE)
    problem = f"does not work element by element, so it cannot step clients as one stacked model: only {names} can"
    return ConfigError("model.optimizer", kind.__name__, problem, "use one of them, or executor=processes")


def stack_optimizer(optimizer: Optimizer, rows: Mapping[int, nn.Parameter], module: str) -> None:
    """Replace the parameters of a new optimizer by stacked ones.

    Its state, which Adagrad makes at once, gets a row for each client. Parameter groups and schedulers stay.

    Args:
        optimizer: an optimizer of the module's own parameters that has taken no step.
        rows: stacked parameter, shape (clients, ...), by the id of the module's parameter.
        module: class name of the module, for errors.

    Raises:
        ConfigError: if the optimizer has a parameter that the module does not have.
    """
    for group in optimizer.param_groups:
        if any(id(parameter) not in rows for parameter in group["params"]):
            problem = "gives its optimizer a tensor that is not a parameter of the module, so clients would share it"
            raise ConfigError("model", module, problem, "use executor=processes")
        group["params"] = [rows[id(parameter)] for parameter in group["params"]]
    states = list(optimizer.state.items())
    optimizer.state.clear()
    for parameter, state in states:
        rows_of = rows[id(parameter)]
        optimizer.state[rows_of] = {name: _repeat(value, len(rows_of)) for name, value in state.items()}


def takes_plain_steps(optimizer: Optimizer) -> bool:
    """Return True if a step is p - lr * gradient.

    Then each client may step alone: its numbers have the same bits, and nothing else reads the gradients.
    """
    return takes_own_steps(optimizer, SGD) and all(_is_plain(group) for group in optimizer.param_groups)


def _is_plain(group: Mapping[str, Any]) -> bool:
    if not isinstance(group["lr"], Real) or any(group[key] for key in ("momentum", "weight_decay", "maximize")):
        return False
    dtypes = {parameter.dtype for parameter in group["params"]}
    return all(_agree_in_rows(dtype, group["foreach"], group["fused"]) for dtype in dtypes)


@cache
def _agree_in_rows(dtype: torch.dtype, foreach: bool | None, fused: bool | None) -> bool:
    """Return True if SGD moves each row as if it were alone.

    All bits must be the same.
    """
    weights, gradients = torch.arange(6006).sin().to(dtype).view(2, 3, 1001)
    parameter = nn.Parameter(weights.clone())
    parameter.grad = gradients.clone()
    SGD([parameter], lr=0.1, foreach=foreach, fused=fused).step()
    for row, gradient in zip(weights, gradients, strict=True):
        row.add_(gradient, alpha=-0.1)
    return torch.equal(weights, parameter.detach())


def _repeat(value: Any, count: int) -> Any:
    """Repeat a tensor for each client.

    A number stays, since the clients step together.
    """
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return value.unsqueeze(0).repeat(count, *[1] * value.dim())


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return an optimizer's parameters in the order of its state dict."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def state_signature(client_state: Groups | None) -> tuple[Any, ...]:
    """Return what the optimizer states of clients that step together must share.

    These are the names, and the values of all numbers, such as the count of steps.
    """
    groups = client_state or {}
    return tuple(
        (name, key, None if value.dim() else value.item())
        for name, tensors in sorted(groups.items())
        if name.startswith(OPTIMIZER_PREFIX)
        for key, value in sorted(tensors.items())
    )


def load_states(optimizer: Optimizer, client_states: Sequence[Groups]) -> None:
    """Load the optimizer states of several clients, which have equal signatures."""
    prefix = f"{OPTIMIZER_PREFIX}0/"
    for number, parameter in enumerate(parameters_of(optimizer)):
        states = [state[f"{prefix}{number}"] for state in client_states if f"{prefix}{number}" in state]
        if states:
            optimizer.state[parameter] = {key: _join([one[key] for one in states], parameter) for key in states[0]}


def _join(values: Sequence[Tensor], parameter: nn.Parameter) -> Tensor:
    if values[0].dim() == 0:
        return values[0].clone()
    return torch.stack(list(values)).to(parameter.device, parameter.dtype if values[0].is_floating_point() else None)


def keep_rows(optimizer: Optimizer, count: int) -> None:
    """Keep the first rows of the parameters and their state.

    The gradients are dropped.
    """
    for parameter in parameters_of(optimizer):
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                state[name] = value[:count]
        parameter.grad = None
        parameter.data = parameter.data[:count]


def client_part(states: Mapping[str, Tensors], row: int) -> dict[str, Tensors]:
    """Return one client's part of the states of an optimizer."""
    return {
        name: {key: (value[row] if value.dim() else value).clone() for key, value in tensors.items()}
        for name, tensors in states.items()
    }


@torch.no_grad()
def clip_rows(parameters: Sequence[nn.Parameter], limit: float, algorithm: str) -> None:
    """Clip each client's gradients, as Lightning does for one client.

    Args:
        parameters: stacked parameters.
        limit: largest norm, or largest absolute value.
        algorithm: `norm` or `value`.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if algorithm == "value":
        for gradient in gradients:
            gradient.clamp_(-limit, limit)
    elif gradients:
        norms = torch.stack([gradient.reshape(len(gradient), -1).norm(dim=1) for gradient in gradients], dim=1)
        factors = (limit / (norms.norm(dim=1) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(along_rows(factors, gradient))


def along_rows(values: Tensor, like: Tensor) -> Tensor:
    """Return one value for each client, to broadcast over stacked tensors.

    The shape is (clients, 1, ...).
    """
    return values.view(-1, *[1] * (like.dim() - 1))
