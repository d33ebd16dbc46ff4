"""What a configuration says a federation is made of: data, a module, a sampler, callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from hydra.utils import get_object
from lightning.pytorch import Callback, LightningModule

from fedlit.client.replica import configure_module
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.streams import Purpose, seeded, stream
from fedlit.data import Data
from fedlit.data.custom import to_data
from fedlit.data.samples import Loading
from fedlit.experiment.config.instantiate import check_types, has_argument, import_target, instantiate_checked
from fedlit.experiment.weights import load_weights
from fedlit.models import Classifier

LOADING_KEYS = [field.name for field in fields(Loading)]
"""Keys of the data's group that say how samples become batches."""


def make_data(node: Mapping[str, Any], loading: Loading | None, seed: int) -> Data:
    """The data, with what is to be held out for validation held out."""
    target, loads = import_target(node), LOADING_KEYS  # an argument of this name is the source's as well
    own = {key: value for key, value in node.items() if key not in loads or has_argument(target, key)}
    with seeded(seed, Purpose.DATA):  # a user's source may draw from the global generators
        data = to_data(instantiate_checked(own), 0 if loading is None else loading.num_workers)
    if loading is None or (data.val is not None and has_argument(target, "val_fraction")):
        return data  # then the fraction was the source's own
    return data.hold_out(loading.val_fraction, stream(seed, Purpose.SPLIT))


def make_model(node: Mapping[str, Any], data: Data, seed: int) -> LightningModule:
    """The model with its initial weights; `shape: null` and `classes: null` become the data's."""
    known = {"shape": list(data.shape), "classes": len(data.classes)}
    for key, value in known.items():
        if node.get(key) is not None and node[key] != value:
            raise ConfigError(
                key,
                node[key],
                f"does not fit {data.name}, which has {value}",
                f"leave out model.{key}: it is taken from the data",
            )
    node = {key: known[key] if key in known and value is None else value for key, value in node.items()}
    start = node.pop("init_from", None)
    if isinstance(node.get("network"), str):  # takes its arguments through the Classifier's
        known = inspect.signature(Classifier).parameters
        try:
            network = get_object(node["network"])
        except Exception as error:  # whatever importing foreign code may raise
            why = f"cannot be imported: {error}".splitlines()[0]
            raise ConfigError("network", node["network"], why, "it must be the import path of a class") from error
        check_types(network, {k: v for k, v in node.items() if k not in known and k != "_target_"})
    with seeded(seed, Purpose.INIT):
        module = instantiate_checked(node)
        if isinstance(module, LightningModule):
            configure_module(module)
    if not isinstance(module, LightningModule):
        raise ConfigError(
            "_target_", node["_target_"], f"makes a {type(module).__name__}", "it must make a LightningModule"
        )
    if start is not None:
        load_weights(module, start)
    return module


def make_sampler(node: Mapping[str, Any]) -> Callable[[int], Any]:
    """Makes a sampler of a cohort's size, which the schedule says."""
    if "size" in node:
        remedy = "schedule.clients_per_round or schedule.client_fraction: leave sampler.size out"
        raise ConfigError("size", node["size"], "is the cohort's, which the schedule says", remedy)
    check_types(import_target(node), {key: value for key, value in node.items() if not key.startswith("_")})
    return lambda size: instantiate_checked(node, size=size)


def make_callbacks(nodes: Any) -> Callable[[], list[Callback]]:
    """Makes the callbacks anew for each fit."""
    if isinstance(nodes, list):
        nodes = {f"{number}": node for number, node in enumerate(nodes)}
    if not isinstance(nodes, Mapping | None):
        raise ConfigError(
            "callbacks", nodes, "must be keys with values", "such as {stop: {_target_: my_file.MyCallback}}"
        )
    return partial(_create_all, {name: node for name, node in (nodes or {}).items() if node is not None})


def _create_all(nodes: Mapping[str, Any]) -> list[Callback]:
    made = []
    for name, node in nodes.items():
        try:
            made.append(instantiate_checked(node))
        except (ConfigError, ConfigErrors) as wrong:
            raise wrong.prefixed(f"callbacks.{name}") from wrong
        if not isinstance(made[-1], Callback):
            why = f"makes a {type(made[-1]).__name__}"
            raise ConfigError(
                f"callbacks.{name}._target_", node["_target_"], why, "it must make a lightning.pytorch.Callback"
            )
    return made
