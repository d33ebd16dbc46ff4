"""Selection of the names that stay with each client."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import nn

from fedlit.algorithms.layers import last_layer, layer_paths, names_in_layers, norm_layers, tied_names
from fedlit.core.errors import ConfigError
from fedlit.core.model import Model


def select_personal(module: nn.Module, model: Model, layers: str, patterns: Sequence[str]) -> frozenset[str]:
    """The personal names of a model.

    Args:
        module: the module that clients train.
        model: the part of the module's weights from which to select.
        layers: `norm`, `last`, `all` or `none`.
        patterns: patterns of further names, with `*` for anything.

    Raises:
        ConfigError: if no name is personal, no parameter is left to share, one tensor would be both, or the last layer is not
            trained.
    """
    own = list(model.state_dict())
    tied = tied_names(module, own)
    names = list(dict.fromkeys([*own, *(name for group in tied for name in group)]))
    selected = set(names if layers == "all" else names_in_layers(names, _layers(module, layers)))
    for pattern in patterns:
        selected |= _matching(names, pattern)
    for group in tied:
        if shared := [name for name in group if name not in selected]:
            _raise_if_split(layers, patterns, [name for name in group if name in selected], shared)
    personal = selected & set(own)
    if not personal:
        raise _no_layer_error(module, layers)
    if layers != "all" and personal >= model.parameters.keys():
        key, value = ("layers", layers) if layers != "none" else ("names", list(patterns))
        problem = f"leaves no parameter of {type(module).__name__} to share"
        raise ConfigError(key, value, problem, "algorithm=local trains clients alone")
    return frozenset(personal)


def _layers(module: nn.Module, layers: str) -> list[str]:
    if layers == "last":
        path, layer = last_layer(module)
        if not path:
            problem = f"needs a layer, and the last parameters are those of {type(module).__name__} itself"
            raise ConfigError("layers", layers, problem, "take layers=none, and give names")
        if not any(parameter.requires_grad for parameter in layer.parameters()):  # a teacher, for example
            problem = f"is {path}, whose parameters are not trained"
            raise ConfigError("layers", layers, problem, "take layers=none, and give names")
        return layer_paths(module, layer)
    return norm_layers(module) if layers == "norm" else []


def _matching(names: Collection[str], pattern: str) -> set[str]:
    matching = {name for name in names if fnmatchcase(name, pattern)}
    if not matching:
        problem = f"matches none of {', '.join(list(names)[:4])}{', ...' if len(names) > 4 else ''}"
        raise ConfigError("names", pattern, problem, "give a pattern of whole names, with * for anything")
    return matching


def _raise_if_split(layers: str, patterns: Sequence[str], personal: Sequence[str], shared: Sequence[str]) -> None:
    """Raise ConfigError if one tensor has personal and shared names."""
    if personal:
        key, value = ("layers", layers) if layers != "none" else ("names", list(patterns))
        left, right = ", ".join(personal), ", ".join(shared)
        problem = f"splits one tensor: {left} would stay with each client, and {right} would be shared"
        hint = f"add {right} to algorithm.names, so that both stay with each client, or untie them in the model"
        raise ConfigError(key, value, problem, hint)


def _no_layer_error(module: nn.Module, layers: str) -> ConfigError:
    name = type(module).__name__
    if layers == "norm" and not norm_layers(module):
        problem, hint = f"{name} has no normalisation layer", "take a model that has one, such as model.norm=batch"
    else:
        problem, hint = f"the outer algorithm keeps that part of {name} already", "choose other layers"
    return ConfigError("layers", layers, f"leaves no personal layer: {problem}", f"{hint}, or another algorithm")
