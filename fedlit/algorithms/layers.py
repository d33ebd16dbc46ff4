"""Layers of a module, and the tensors that belong to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import chain

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from fedlit.core.torch_internals import batch_norm_base

NORMS = (
    batch_norm_base(),  # batch and instance norm of every dimension, SyncBatchNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
"""Types of normalisation layers."""


def last_layer(module: nn.Module) -> tuple[str, nn.Module]:
    """Find the last layer that has parameters, in the order of registration.

    It is the output layer of most networks. A layer has the parameters of its parametrizations, of its lists and dicts of
    parameters, and of its parts if it is a layer of torch, such as `nn.MultiheadAttention`.

    Returns:
        The layer's path, and the layer. The path is empty if the parameters are the module's own.

    Raises:
        ValueError: if no layer has parameters.
    """
    parts = dict(module.named_modules())
    holders = [path for path, part in parts.items() if _has_own_parameters(part)]
    if not holders:
        raise ValueError(f"{type(module).__name__} has no layer with parameters")
    path = _layer_path(holders[-1], parts)
    return path, parts[path]


def norm_layers(module: nn.Module) -> list[str]:
    """Paths of the normalisation layers.

    A layer that is registered twice has two paths.
    """
    return [path for path, part in module.named_modules(remove_duplicate=False) if isinstance(part, NORMS)]


def layer_paths(module: nn.Module, layer: nn.Module) -> list[str]:
    """All paths under which a layer is registered."""
    return [path for path, part in module.named_modules(remove_duplicate=False) if part is layer]


def names_in_layers(names: Iterable[str], layers: Iterable[str]) -> list[str]:
    """The names that lie in one of the layers."""
    begin = tuple(f"{layer}." for layer in layers)
    return [name for name in names if name.startswith(begin)]


def tied_names(module: nn.Module, known: Collection[str]) -> list[list[str]]:
    """All names of each tensor that has several.

    A head that is tied to an embedding has such a tensor.

    Args:
        module: the module.
        known: names of parameters and buffers; a tensor with none of them is left out.
    """
    names = defaultdict(list)
    tensors = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        names[id(tensor)].append(name)
    return [tied for tied in names.values() if len(tied) > 1 and not set(tied).isdisjoint(known)]


def _has_own_parameters(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None


def _layer_path(path: str, parts: dict[str, nn.Module]) -> str:
    """The path of the layer to which a part with parameters belongs."""
    names = path.split(".") if path else []
    for depth, name in enumerate(names):
        owner = parts[outer := ".".join(names[:depth])]
        is_torch_layer = type(owner).__module__.startswith("torch.nn.modules.") and _has_own_parameters(owner)
        if is_torch_layer or (name == "parametrizations" and is_parametrized(owner)):
            return outer
    while isinstance(parts[path], nn.ParameterList | nn.ParameterDict):
        path = path.rpartition(".")[0]
    return path
