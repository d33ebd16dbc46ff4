"""The federation's parts that need torch and no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlit.aggregation import Channel
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ErrorCollector
from fedlit.experiment.config.components import make_callbacks
from fedlit.experiment.config.instantiate import instantiate_checked
from fedlit.experiment.config.settings import Settings, make_instance
from fedlit.experiment.config.trainer_args import make_trainer_config
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
    _make_channel(config.get("channel") or {}, parts, collector)
    for name, node in config["observers"].items():
        with collector.collect(f"observers.{name}"):
            if node is not None:
                parts.observers[name] = make_instance(node, Observer, "fedlit.Observer")
    return parts


def _make_channel(nodes: Mapping[str, Any], parts: Components, collector: ErrorCollector) -> None:
    stages = []
    for name, node in nodes.items():
        with collector.collect(f"channel.{name}"):
            stages += [] if node is None else [instantiate_checked(node)]
    with collector.collect(""):
        parts.channel = Channel.of(stages)
