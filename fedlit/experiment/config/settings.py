"""The parts of a configuration that need neither data nor torch.

Torch and Lightning take seconds to import. So the values of these parts are checked, and their errors printed, before.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fedlit.algorithms.algorithm import Algorithm
from fedlit.core.errors import ConfigError, ErrorCollector, require_instance
from fedlit.data.loading import Loading
from fedlit.data.protocols import Partitioner, as_partitioner
from fedlit.executors.executor import Executor
from fedlit.executors.resources import available_cores
from fedlit.experiment.config.instantiate import call_checked, check_types, import_target, instantiate_checked
from fedlit.experiment.config.trainer_values import check_trainer_values
from fedlit.experiment.config.trust.allowlist import untrusted_targets
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.evaluation import Evaluations
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy
from fedlit.simulation.server_crash import ServerCrash

LOADING_KEYS = [field.name for field in fields(Loading)]
"""Keys of the group `data` that say how samples become batches."""


@dataclass
class Settings:
    """Parts that need neither data nor torch.

    An attribute is None if its configuration has an error.
    """

    schedule: Schedule = None  # type: ignore[assignment]
    loading: Loading = None  # type: ignore[assignment]
    algorithm: Algorithm = None  # type: ignore[assignment]
    partition: Partitioner = None  # type: ignore[assignment]
    executor: Executor = None  # type: ignore[assignment]
    monitor: Monitor = None  # type: ignore[assignment]
    evaluations: Evaluations = None  # type: ignore[assignment]
    sampler: Callable[[int], Any] = None  # type: ignore[assignment]
    trainer_values: Mapping[str, Any] = None  # type: ignore[assignment]
    retention: Retention = None  # type: ignore[assignment]
    faults: FailurePolicy = None  # type: ignore[assignment]
    crash: ServerCrash | None = None
    clock: VirtualClock | None = None
    seed: int = 0


def setting_errors(config: Mapping[str, Any]) -> list[ConfigError]:
    """Errors in the settings, found without torch.

    Groups with a name that is not of fedlit's public ones are left out: an import of the user's classes could import torch, and
    the values may be of a command from elsewhere.
    """
    collector = ErrorCollector()
    make_settings(config, collector, _calls_public_names)
    with collector.collect("model"):
        _check_weights_file(config["model"])
    return collector.errors()


def make_settings(
    config: Mapping[str, Any], collector: ErrorCollector, is_checked: Callable[[Any], bool] = lambda node: True
) -> Settings:
    """Make the settings, and collect their errors.

    Args:
        config: the resolved configuration, plain values.
        collector: collects the errors.
        is_checked: says if a node with the key `_target_` is made.
    """
    settings = Settings()
    with collector.collect("schedule"):
        settings.schedule = call_checked(Schedule, config["schedule"])
    with collector.collect("data"):
        loading = {key: config["data"][key] for key in LOADING_KEYS if key in config["data"]}
        settings.loading = call_checked(Loading, loading)
    with collector.collect("monitor"):
        settings.monitor = call_checked(Monitor, config["monitor"])
    with collector.collect("eval"):
        settings.evaluations = call_checked(Evaluations, config["eval"])
    if is_checked(config["algorithm"]):
        with collector.collect("algorithm"):
            settings.algorithm = make_instance(config["algorithm"], Algorithm, "fedlit.Algorithm")
    if is_checked(config["partition"]):
        with collector.collect("partition"):
            settings.partition = make_partitioner(config["partition"])
    if is_checked(config["executor"]):
        with collector.collect("executor"):
            settings.executor = make_instance(config["executor"], Executor, "fedlit.executors.executor.Executor")
    if is_checked(config["sampler"]):
        with collector.collect("sampler"):
            settings.sampler = _make_sampler(config["sampler"])
    with collector.collect("trainer"):
        check_trainer_values(config["trainer"])
        settings.trainer_values = config["trainer"]
    with collector.collect("checkpoint"):
        settings.retention = call_checked(Retention, config["checkpoint"])
    with collector.collect("clock"):
        settings.clock = call_checked(VirtualClock, config["clock"]) if config["clock"] else None
    if is_checked(config["faults"]):
        _make_faults(config["faults"], settings, collector)
    _check_values(config, settings, collector)
    return settings


def make_instance(node: Mapping[str, Any], base: type, name: str) -> Any:
    """Return the node's object.

    Raises:
        ConfigError: if it is not an instance of the base class.
    """
    return require_instance(instantiate_checked(node), base, "_target_", node["_target_"], name)


def make_partitioner(node: Mapping[str, Any]) -> Partitioner:
    """Return the node's partitioner; a function of samples and generator is one.

    Raises:
        ConfigError: if the target is neither.
    """
    target, values = import_target(node), {key: value for key, value in node.items() if not key.startswith("_")}
    is_function = (
        not inspect.isclass(target) and not _can_call(target, values) and _can_call(target, values, None, None)
    )
    return as_partitioner(instantiate_checked({**node, "_partial_": True} if is_function else node))


def _can_call(target: Callable[..., Any], values: Mapping[str, Any], *more: None) -> bool:
    """Return True if the target takes the values behind further positional arguments."""
    try:
        inspect.signature(target).bind(*more, **values)
    except (TypeError, ValueError):  # some built-in types have no signature
        return False
    return True


def _check_weights_file(model: Any) -> None:
    """Raise ConfigError if the file of initial weights is missing.

    The model reads it only after the data.
    """
    path = model.get("init_from") if isinstance(model, Mapping) else None
    if isinstance(path, str) and not os.path.isfile(os.path.expanduser(path)):
        raise ConfigError(
            "init_from", path, "there is no such file", "name a .ckpt or .safetensors file of the same model"
        )


def _calls_public_names(node: Any) -> bool:
    """Return True if a node calls public names of fedlit alone."""
    return all(str(target).startswith("fedlit.") for target in _targets(node)) and not untrusted_targets({"": node})


def _targets(node: Any) -> Iterator[Any]:
    """Yield the value of each `_target_` in a node."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield from [value] if key == "_target_" else _targets(value)


def _make_sampler(node: Mapping[str, Any]) -> Callable[[int], Any]:
    """Return a function that makes the sampler for a cohort size.

    The schedule sets the size.

    Raises:
        ConfigError: if the group has a size, or the target has no such arguments.
    """
    if "size" in node:
        hint = "schedule.clients_per_round or schedule.client_fraction: leave sampler.size out"
        raise ConfigError("size", node["size"], "is the size of the cohort, which the schedule sets", hint)
    check_types(import_target(node), {key: value for key, value in node.items() if not key.startswith("_")})
    return lambda size: instantiate_checked(node, size=size)


def _make_faults(node: Mapping[str, Any], settings: Settings, collector: ErrorCollector) -> None:
    plans = {}
    for name, plan in (node.get("plans") or {}).items():
        with collector.collect(f"faults.plans.{name}"):
            plans |= {name: instantiate_checked(plan)} if plan else {}
    with collector.collect("faults"):
        rest = {key: value for key, value in node.items() if key not in ("plans", "server")}
        settings.faults = replace(call_checked(FailurePolicy, rest), plans=tuple(plans.values()), names=tuple(plans))
    with collector.collect("faults.server"):
        settings.crash = instantiate_checked(node["server"]) if node.get("server") else None
    if settings.crash is not None and settings.schedule is not None:
        collector.all += settings.crash.check(settings.schedule.rounds)


def _check_values(config: Mapping[str, Any], settings: Settings, collector: ErrorCollector) -> None:
    """Check single values, and a target without a metric."""
    with collector.collect(""):
        available_cores()
    with collector.collect(""):
        seed = config["seed"]
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigError("seed", seed, "must be a whole number of at least 0")
        settings.seed = seed
    monitor, schedule = settings.monitor, settings.schedule
    if monitor is not None and schedule is not None and monitor.name is None and schedule.stop_at is not None:
        problem = "is a target without a metric: monitor.name is null"
        hint = "set monitor.name, or leave schedule.stop_at out"
        collector.all.append(ConfigError("schedule.stop_at", schedule.stop_at, problem, hint))
    for key in ("check", "traceback"):
        with collector.collect(""):
            if not isinstance(config[key], bool):
                raise ConfigError(key, config[key], "must be true or false")
