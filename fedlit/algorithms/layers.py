"""Layers of a module, and the tensors that belong to them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from fedlit.core.torch_internals import batch_norm_base, registers_parameters

NORMS = (
    batch_norm_base(),  # batch and instance norm of every dimension, SyncBatchNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
"""Types of normalisation layers."""


def last_layer(module: nn.Module) -> tuple[str, nn.Module]:
    """Find the last layer that has own parameters.

    It is the output layer of most networks.

    Returns:
        The layer's path, and the layer.

    Raises:
        ValueError: if no layer has parameters.
    """
    layers = [(path, part) for path, part in module.named_modules() if registers_parameters(part)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no layer with parameters")
    return layers[-1]


def norm_layers(module: nn.Module) -> list[str]:
    """Paths of the normalisation layers."""
    return [path for path, part in module.named_modules() if isinstance(part, NORMS)]


def names_in_layers(names: Iterable[str], layers: Iterable[str]) -> list[str]:
    """The names that lie in one of the layers."""
    begin = tuple(f"{layer}." for layer in layers)
    return [name for name in names if name.startswith(begin)]
