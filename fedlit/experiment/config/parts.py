"""The federation's parts that need torch and no data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger

from fedlit.aggregation import Channel, Codec, Stage
from fedlit.client.dp_sgd import ExamplePrivacy
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ErrorCollector, raise_errors, require
from fedlit.experiment.config.components import make_callbacks
from fedlit.experiment.config.instantiate import check_types, import_target, instantiate_checked
from fedlit.experiment.config.settings import Settings, make_instance
from fedlit.experiment.config.trainer_args import make_trainer_config
from fedlit.experiment.observers.loggers.choices import LoggerChoice, OwnLogger
from fedlit.experiment.observers.loggers.logger_observer import LoggerObserver
from fedlit.experiment.observers.observer import Observer
from fedlit.server.schedule import Schedule


@dataclass
class Components:
    """Parts that need torch and no data.

    Args:
        trainer_config: configuration of the clients' Trainers; None if it has an error.
        channel: stages between client and server.
        observers: observers by name.
    """

    trainer_config: TrainerConfig = None  # type: ignore[assignment]
    channel: Channel = field(default_factory=Channel)
    observers: dict[str, Observer] = field(default_factory=dict)


def make_components(config: Mapping[str, Any], settings: Settings, collector: ErrorCollector) -> Components:
    """Make the parts, and collect their errors."""
    parts = Components()
    with collector.collect("trainer"):
        callbacks = make_callbacks(config["trainer"].get("callbacks"))
        if settings.trainer_values is not None:
            parts.trainer_config = make_trainer_config(
                settings.trainer_values, callbacks, settings.schedule or Schedule()
            )
    _make_channel(config, parts, collector)
    for name, node in config["observers"].items():
        with collector.collect(f"observers.{name}"):
            if node is not None:
                parts.observers[name] = make_instance(node, Observer, "fedlit.Observer")
    for name, node in (config.get("loggers") or {}).items():
        with collector.collect(f"loggers.{name}"):
            if node is not None:
                parts.observers[f"loggers.{name}"] = LoggerObserver(_make_logger(name, node), f"loggers.{name}")
    return parts


def _make_logger(name: str, node: Mapping[str, Any]) -> LoggerChoice:
    """Return a choice of `loggers` that makes a logger of Lightning.

    Raises:
        ConfigError: if the class is none of both, or an argument is wrong.
    """
    target = import_target(node)
    if isinstance(target, type) and issubclass(target, LoggerChoice):
        return make_instance(node, LoggerChoice, "LoggerChoice")
    is_logger = isinstance(target, type) and issubclass(target, Logger)
    hint = "give a class of lightning.pytorch.loggers, or a subclass of Logger"
    raise_errors(require(is_logger, "_target_", node["_target_"], "is not a logger of Lightning", hint))
    check_types(target, {key: value for key, value in node.items() if not key.startswith("_")})
    has_save_dir = "save_dir" in inspect.signature(target).parameters and "save_dir" not in node
    return OwnLogger(partial(instantiate_checked, node), name, has_save_dir)


def _make_channel(config: Mapping[str, Any], parts: Components, collector: ErrorCollector) -> None:
    """Make the channel of compression, privacy, encryption and single stages."""
    compression = dict(config.get("compression") or {})
    feedback, down = compression.pop("error_feedback", False), compression.pop("down", None)
    nodes = {"compression": compression, "encryption": config.get("encryption")}
    nodes |= {f"channel.{name}": node for name, node in (config.get("channel") or {}).items()}
    stages = [stage for key, node in nodes.items() for stage in _make_stage(key, node, collector)]
    for mechanism in _make_stage("privacy", config.get("privacy"), collector, ExamplePrivacy):
        if not isinstance(mechanism, ExamplePrivacy):
            stages.append(mechanism)
        elif parts.trainer_config is not None:  # not a stage, but a part of local training
            parts.trainer_config = replace(parts.trainer_config, privacy=mechanism)
    with collector.collect("compression"):
        hint = f"choose it as a group: compression/down={down}"
        raise_errors(
            require(isinstance(feedback, bool), "error_feedback", feedback, "must be true or false"),
            require(isinstance(down, Mapping | None), "down", down, "must be a mapping with the key _target_", hint),
        )
    codec = next(iter(_make_stage("compression.down", down if isinstance(down, Mapping) else None, collector)), None)
    with collector.collect(""):
        parts.channel = Channel.of(stages, error_feedback=feedback is True, down=codec)


def _make_stage(key: str, node: Mapping[str, Any] | None, collector: ErrorCollector, *kinds: type) -> Iterator[Any]:
    """Yield a node's stage, codec or object of another kind."""
    with collector.collect(key):
        if node:
            stage = instantiate_checked(node)
            is_stage = isinstance(stage, (Stage, Codec, *kinds))
            hint = "give a subclass of fedlit.Stage or fedlit.Codec"
            raise_errors(require(is_stage, "_target_", node["_target_"], "is not a stage of the channel", hint))
            yield stage
