"""The federation's parts that need no data, from a resolved configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedlit.aggregation import Channel
from fedlit.algorithms.algorithm import Algorithm
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError, ErrorCollector, require_instance
from fedlit.data.loading import Loading
from fedlit.data.protocols import Partitioner, as_partitioner
from fedlit.executors.executor import Executor
from fedlit.executors.resources import available_cores
from fedlit.experiment.config.components import LOADING_KEYS, make_callbacks, make_sampler
from fedlit.experiment.config.instantiate import call_checked, instantiate_checked
from fedlit.experiment.config.trainer_args import make_trainer_config
from fedlit.experiment.observers.observer import Observer
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.evaluation import Evaluations
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy
from fedlit.simulation.server_crash import ServerCrash


@dataclass
class Components:
    """Parts that need no data.

    An attribute is None if its configuration has an error.
    """

    schedule: Schedule = None  # type: ignore[assignment]
    loading: Loading = None  # type: ignore[assignment]
    algorithm: Algorithm = None  # type: ignore[assignment]
    partition: Partitioner = None  # type: ignore[assignment]
    executor: Executor = None  # type: ignore[assignment]
    monitor: Monitor = None  # type: ignore[assignment]
    trainer_config: TrainerConfig = None  # type: ignore[assignment]
    evaluations: Evaluations = None  # type: ignore[assignment]
    sampler: Callable[[int], Any] = None  # type: ignore[assignment]
    channel: Channel = field(default_factory=Channel)
    observers: dict[str, Observer] = field(default_factory=dict)
    retention: Retention = None  # type: ignore[assignment]
    faults: FailurePolicy = None  # type: ignore[assignment]
    crash: ServerCrash | None = None
    clock: VirtualClock | None = None
    seed: int = 0


def make_components(config: Mapping[str, Any], collector: ErrorCollector) -> Components:
    """Make the parts that need no data, and collect their errors."""
    parts = Components()
    with collector.collect("schedule"):
        parts.schedule = call_checked(Schedule, config["schedule"])
    with collector.collect("data"):
        loading = {key: config["data"][key] for key in LOADING_KEYS if key in config["data"]}
        parts.loading = call_checked(Loading, loading)
    with collector.collect("monitor"):
        parts.monitor = call_checked(Monitor, config["monitor"])
    with collector.collect("eval"):
        parts.evaluations = call_checked(Evaluations, config["eval"])
    with collector.collect("algorithm"):
        parts.algorithm = _make(config["algorithm"], Algorithm, "fedlit.Algorithm")
    with collector.collect("partition"):
        parts.partition = as_partitioner(instantiate_checked(config["partition"]))
    with collector.collect("executor"):
        parts.executor = _make(config["executor"], Executor, "fedlit.executors.executor.Executor")
    with collector.collect("sampler"):
        parts.sampler = make_sampler(config["sampler"])
    with collector.collect("trainer"):
        callbacks = make_callbacks(config["trainer"].get("callbacks"))
        parts.trainer_config = make_trainer_config(config["trainer"], callbacks, parts.schedule or Schedule())
    with collector.collect("checkpoint"):
        parts.retention = call_checked(Retention, config["checkpoint"])
    with collector.collect("clock"):
        parts.clock = call_checked(VirtualClock, config["clock"]) if config["clock"] else None
    _make_channel(config.get("channel") or {}, parts, collector)
    _make_observers(config["observers"], parts, collector)
    _make_faults(config["faults"], parts, collector)
    _check_values(config, parts, collector)
    return parts


def _make(node: Mapping[str, Any], base: type, name: str) -> Any:
    return require_instance(instantiate_checked(node), base, "_target_", node["_target_"], name)


def _make_channel(nodes: Mapping[str, Any], parts: Components, collector: ErrorCollector) -> None:
    stages = []
    for name, node in nodes.items():
        with collector.collect(f"channel.{name}"):
            stages += [] if node is None else [instantiate_checked(node)]
    with collector.collect(""):
        parts.channel = Channel.of(stages)


def _make_observers(nodes: Mapping[str, Any], parts: Components, collector: ErrorCollector) -> None:
    for name, node in nodes.items():
        with collector.collect(f"observers.{name}"):
            if node is not None:
                parts.observers[name] = _make(node, Observer, "fedlit.Observer")


def _make_faults(node: Mapping[str, Any], parts: Components, collector: ErrorCollector) -> None:
    plans = {}
    for name, plan in (node.get("plans") or {}).items():
        with collector.collect(f"faults.plans.{name}"):
            plans |= {name: instantiate_checked(plan)} if plan else {}
    with collector.collect("faults"):
        rest = {key: value for key, value in node.items() if key not in ("plans", "server")}
        parts.faults = replace(call_checked(FailurePolicy, rest), plans=tuple(plans.values()), names=tuple(plans))
    with collector.collect("faults.server"):
        parts.crash = instantiate_checked(node["server"]) if node.get("server") else None
    if parts.crash is not None and parts.schedule is not None:
        collector.all += parts.crash.check(parts.schedule.rounds)


def _check_values(config: Mapping[str, Any], parts: Components, collector: ErrorCollector) -> None:
    """Check single values, and a target without a metric."""
    with collector.collect(""):
        available_cores()
    with collector.collect(""):
        seed = config["seed"]
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigError("seed", seed, "must be a whole number of at least 0")
        parts.seed = seed
    monitor, schedule = parts.monitor, parts.schedule
    if monitor is not None and schedule is not None and monitor.name is None and schedule.stop_at is not None:
        problem, hint = (
            "is a target without a metric: monitor.name is null",
            "set monitor.name, or leave schedule.stop_at out",
        )
        collector.all.append(ConfigError("schedule.stop_at", schedule.stop_at, problem, hint))
    for key in ("check", "traceback"):
        with collector.collect(""):
            if not isinstance(config[key], bool):
                raise ConfigError(key, config[key], "must be true or false")
