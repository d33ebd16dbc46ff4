"""The parts of a client state: the optimizer's and the algorithm's."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedlit.aggregation.channel import CHANNEL_PREFIX
from fedlit.client.dp_sgd.accounting import PRIVACY_PREFIX
from fedlit.core.errors import ConfigError
from fedlit.core.tensors import Groups, Tensors

OPTIMIZER_PREFIX = "optimizer/"
"""Prefix of an optimizer's groups in the client state: `optimizer/NUMBER/PARAMETER`."""


def optimizer_state(client_state: Groups) -> dict[str, Tensors]:
    """Return the groups of a client state that belong to the optimizer."""
    return {name: state for name, state in client_state.items() if name.startswith(OPTIMIZER_PREFIX)}


def algorithm_state(client_state: Groups) -> Groups:
    """Return the groups of a client state that belong to the algorithm."""
    prefixes = (OPTIMIZER_PREFIX, CHANNEL_PREFIX, PRIVACY_PREFIX)
    return {name: state for name, state in client_state.items() if not name.startswith(prefixes)}


def read_state(optimizer: torch.optim.Optimizer, number: int) -> Iterator[tuple[str, Tensors]]:
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


def load_state(optimizer: torch.optim.Optimizer, number: int, client_state: Groups) -> None:
    """Load an optimizer's state from the groups of a client state."""
    prefix = f"{OPTIMIZER_PREFIX}{number}/"
    groups = ((name, tensors) for name, tensors in client_state.items() if name.startswith(prefix))
    state = {int(name.removeprefix(prefix)): dict(tensors) for name, tensors in groups}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
