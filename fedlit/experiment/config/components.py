"""Data, model and callbacks from their groups in the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule

from fedlit.client.module.replica import configure_module
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.streams import Purpose, seeded, stream
from fedlit.data import Data
from fedlit.data.custom import to_data
from fedlit.data.loading import Loading
from fedlit.experiment.config.instantiate import (
    check_types,
    has_argument,
    import_object,
    import_target,
    instantiate_checked,
)
from fedlit.experiment.config.settings import LOADING_KEYS
from fedlit.experiment.weights import load_weights
from fedlit.models import Classifier


def make_data(node: Mapping[str, Any], loading: Loading | None, seed: int) -> Data:
    """Return the data, with the validation split held out.

    Args:
        node: the group `data`.
        loading: loading options; None if they have errors: then nothing is held out.
        seed: seed of the run.
    """
    target = import_target(node)
    # an argument that the source has too is passed to both
    arguments = {key: value for key, value in node.items() if key not in LOADING_KEYS or has_argument(target, key)}
    with seeded(seed, Purpose.DATA):  # a user's source may draw from the global generators
        data = to_data(instantiate_checked(arguments), 0 if loading is None else loading.num_workers)
    if loading is None or (data.val is not None and has_argument(target, "val_fraction")):
        return data  # the source has held out the fraction itself
    return data.hold_out(loading.val_fraction, stream(seed, Purpose.SPLIT))


def make_model(node: Mapping[str, Any], data: Data, seed: int, dtype: torch.dtype | None = None) -> LightningModule:
    """Return the module with its initial weights.

    The values `shape: null` and `classes: null` become those of the data.

    Args:
        node: the group `model`.
        data: data for training.
        seed: seed of the run.
        dtype: dtype of its floating-point weights and buffers; None for the module's own.

    Raises:
        ConfigError: if the group does not make a LightningModule for the data.
    """
    known = _known_arguments(data)
    for key in known.keys() & node.keys():
        _check_fit(key, node[key], known[key], data)
    node = _with_known_arguments(node, data)
    weights_file = node.pop("init_from", None)
    if isinstance(node.get("network"), str):
        _check_network(node)
    with seeded(seed, Purpose.INIT):
        module = instantiate_checked(node)
        if isinstance(module, LightningModule):
            configure_module(module, dtype)
    if not isinstance(module, LightningModule):
        problem = f"makes a {type(module).__name__}"
        raise ConfigError("_target_", node["_target_"], problem, "it must make a LightningModule")
    if weights_file is not None:
        load_weights(module, weights_file)
    return module


def constructor_arguments(module: LightningModule, node: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """Return the plain arguments with which a node made its module.

    The arguments that are objects of other nodes are left out. The result is empty if a function made the module.

    Args:
        module: the module.
        node: the group `model`.
        data: data for training.
    """
    if not isinstance(node.get("_target_"), str) or import_object(node["_target_"]) is not type(module):
        return {}
    arguments = {key: value for key, value in _with_known_arguments(node, data).items() if key != "init_from"}
    return {key: value for key, value in arguments.items() if not key.startswith("_") and not _has_node(value)}


def _known_arguments(data: Data) -> dict[str, Any]:
    return {"shape": list(data.shape), "classes": len(data.classes)}


def _with_known_arguments(node: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """The node with the data's shape and classes instead of null."""
    known = _known_arguments(data)
    return {key: known[key] if key in known and value is None else value for key, value in node.items()}


def _has_node(value: Any) -> bool:
    """True if the value is or has a node with a `_target_`."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_has_node, value.values()))
    return isinstance(value, list) and any(map(_has_node, value))


def _check_fit(key: str, given: Any, known: Any, data: Data) -> None:
    """Raise ConfigError if the shape or classes are not the data's.

    Args:
        key: `shape` or `classes`.
        given: its value in the configuration; None takes that of the data.
        known: its value in the data; empty or 0 if the data has none.
        data: data for training.
    """
    if given is None and not known and key == "shape":
        problem = f"needs the shape of an input, and that of {data.name} is unknown"
        raise ConfigError(key, "null", problem, "set it, such as model.shape=[3,32,32]")
    if given is None and not known:
        has_labels = data.train.labels() is not None
        reason = "its labels are not classes" if has_labels else "it has no `targets` or `labels`"
        own = "a model of your own: model=custom model._target_=my_file.MyModule"
        hint = f"give the data `targets`, whole numbers from 0, or use {own}"
        raise ConfigError(key, "null", f"needs classes, and {data.name} has none: {reason}", hint)
    is_changed_later = key == "shape" and data.datamodule is not None  # by its hooks of batches
    if given is not None and known and given != known and not is_changed_later:
        problem = f"does not fit {data.name}, which has {known}"
        raise ConfigError(key, given, problem, f"leave out model.{key}: it is taken from the data")


def _check_network(node: Mapping[str, Any]) -> None:
    """Raise ConfigError or ConfigErrors for a wrong network or its wrong arguments.

    The Classifier passes the arguments that it does not have itself to the network.
    """
    own = inspect.signature(Classifier).parameters
    network = import_target(node, "network")
    check_types(network, {key: value for key, value in node.items() if key not in own and key != "_target_"})


def make_callbacks(nodes: Any) -> Callable[[], list[Callback]]:
    """Return a function that makes new callbacks for each fit.

    Raises:
        ConfigError: if the nodes are neither a mapping nor a list.
    """
    if isinstance(nodes, list):
        nodes = {f"{number}": node for number, node in enumerate(nodes)}
    if not isinstance(nodes, Mapping | None):
        hint = "such as {stop: {_target_: my_file.MyCallback}}"
        raise ConfigError("callbacks", nodes, "must be a mapping of keys to values", hint)
    return partial(_create_all, {name: node for name, node in (nodes or {}).items() if node is not None})


def _create_all(nodes: Mapping[str, Any]) -> list[Callback]:
    callbacks = []
    for name, node in nodes.items():
        try:
            callbacks.append(instantiate_checked(node))
        except (ConfigError, ConfigErrors) as error:
            raise error.prefixed(f"callbacks.{name}") from error
        if not isinstance(callbacks[-1], Callback):
            problem = f"makes a {type(callbacks[-1]).__name__}"
            hint = "it must make a lightning.pytorch.Callback"
            raise ConfigError(f"callbacks.{name}._target_", node["_target_"], problem, hint)
    return callbacks
