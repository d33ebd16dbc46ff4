"""Models in a client state, and an inner algorithm's client state."""

from __future__ import annotations

from collections.abc import Collection

from fedlit.core.model import Model
from fedlit.core.tensors import Groups, Tensors

PERSONAL_PREFIX = "personal"
"""Prefix of the groups in a client state that hold the client's own part of the model."""

INNER_PREFIX = f"{PERSONAL_PREFIX}/inner"
"""Prefix of the inner algorithm's groups whose own names begin with PERSONAL_PREFIX."""


def restrict_model(model: Model, names: Collection[str]) -> Model:
    """The part of a model that has these names."""
    return Model(*({name: t for name, t in tensors.items() if name in names} for tensors in model.groups().values()))


def save_model(model: Model, prefix: str = PERSONAL_PREFIX) -> dict[str, Tensors]:
    """A model as groups of a client state."""
    return {f"{prefix}/{group}": tensors for group, tensors in model.groups().items()}


def load_model(client_state: Groups, prefix: str = PERSONAL_PREFIX) -> Model | None:
    """The model that `save_model` wrote; None if there is none."""
    if f"{prefix}/parameters" not in client_state:
        return None
    return Model(client_state[f"{prefix}/parameters"], client_state[f"{prefix}/buffers"])


def nest_inner(client_state: Groups) -> dict[str, Tensors]:
    """The inner algorithm's client state, under names free in its wrapper."""
    prefix = f"{PERSONAL_PREFIX}/"
    return {f"{INNER_PREFIX}/{g}" if g.startswith(prefix) else g: tensors for g, tensors in client_state.items()}


def inner_state(client_state: Groups) -> dict[str, Tensors]:
    """The inner algorithm's client state: the inverse of `nest_inner`."""
    own = (f"{PERSONAL_PREFIX}/parameters", f"{PERSONAL_PREFIX}/buffers")
    prefix = f"{INNER_PREFIX}/"
    return {group.removeprefix(prefix): tensors for group, tensors in client_state.items() if group not in own}
