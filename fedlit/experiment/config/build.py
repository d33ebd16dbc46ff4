"""From a resolved configuration to a Federation, with everything that is wrong with it in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.algorithms.algorithm import Algorithm
from fedlit.client.replica import unsupported_module
from fedlit.client.trainer import TrainerConfig
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.data.checks import check_labels, check_num_clients
from fedlit.data.client_data import warn_unused_client_tests
from fedlit.data.protocols import Partitioner
from fedlit.data.samples import Loading
from fedlit.executors.executor import Executor
from fedlit.executors.resources import available_cores
from fedlit.experiment.config.components import LOADING_KEYS, make_callbacks, make_data, make_model, make_sampler
from fedlit.experiment.config.instantiate import call_checked, instantiate_checked
from fedlit.experiment.config.trainer_args import make_trainer_config
from fedlit.experiment.config.trial import try_first_step
from fedlit.experiment.observers import Run
from fedlit.experiment.observers.observer import Observer
from fedlit.runs.keys import NESTED_KEYS, REQUIRED_KEYS
from fedlit.server.checkpoint.disk import Retention
from fedlit.server.checks import check_compatibility, require_methods
from fedlit.server.evaluation import Evaluations
from fedlit.server.federation import Federation
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import VirtualClock, evenly_spaced_clients
from fedlit.simulation.faults import FailurePolicy
from fedlit.simulation.server_crash import ServerCrash


class ErrorCollector:
    """Collects mistakes, so that one does not hide the next."""

    def __init__(self) -> None:
        self.all: list[ConfigError] = []

    @contextmanager
    def collect(self, group: str) -> Iterator[None]:
        """Mistakes raised in the block are kept under their group's name, or those that they have, and the block ends."""
        try:
            yield
        except (ConfigError, ConfigErrors) as wrong:
            raised = wrong.prefixed(group) if group else wrong
            self.all += [mistake for mistake in raised.errors if mistake not in self.all]

    def raise_if_any(self) -> None:
        """Raises Mistakes if there are any that are not mere warnings."""
        if wrong := self.errors():
            raise ConfigErrors(wrong) from next((mistake for mistake in wrong if mistake.__cause__), None)

    def errors(self) -> list[ConfigError]:
        """The mistakes with which a run may not begin."""
        return [mistake for mistake in self.all if not mistake.warning]


@dataclass
class Components:
    """What can be made without data; an attribute is None where a mistake was found."""

    schedule: Schedule = None  # type: ignore[assignment]
    loading: Loading = None  # type: ignore[assignment]
    algorithm: Any = None
    partition: Any = None
    executor: Any = None
    monitor: Monitor = None  # type: ignore[assignment]
    trainer_config: TrainerConfig = None  # type: ignore[assignment]
    evaluations: Evaluations = None  # type: ignore[assignment]
    sampler: Callable[[int], Any] = None  # type: ignore[assignment]
    observers: dict[str, Any] = field(default_factory=dict)
    retention: Retention = None  # type: ignore[assignment]
    faults: FailurePolicy = None  # type: ignore[assignment]
    crash: ServerCrash | None = None
    clock: VirtualClock | None = None
    seed: int = 0


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values.

    Raises:
        Mistakes: if a key or a value is missing, a group has no keys, or an interpolation leads nowhere.
    """
    missing = [
        ConfigError(key, "???", "has no value", f"give one: {key}=...")
        for key in sorted(OmegaConf.missing_keys(config))
    ]
    if missing:
        raise ConfigErrors(missing)
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigErrors([ConfigError(str(error.full_key), "", str(error).splitlines()[0])]) from error
    absent = [
        ConfigError(key, "", "is not in the configuration", "it has no default")
        for key in REQUIRED_KEYS
        if key not in values
    ]
    flat = [key for key in NESTED_KEYS if key in values and not isinstance(values[key], Mapping)]
    if absent or flat:
        raise ConfigErrors([*absent, *(ConfigError(key, values[key], "must be keys with values") for key in flat)])
    return {str(key): value for key, value in values.items()}


def make_components(config: Mapping[str, Any], findings: ErrorCollector) -> Components:
    """Makes what needs no data, and collects what is wrong with it."""
    made = Components()
    with findings.collect("schedule"):
        made.schedule = call_checked(Schedule, config["schedule"])
    with findings.collect("data"):
        made.loading = call_checked(
            Loading, {key: config["data"][key] for key in LOADING_KEYS if key in config["data"]}
        )
    with findings.collect("monitor"):
        made.monitor = call_checked(Monitor, config["monitor"])
    with findings.collect("eval"):
        made.evaluations = call_checked(Evaluations, config["eval"])
    for group, protocol in (("algorithm", Algorithm), ("partition", Partitioner), ("executor", Executor)):
        with findings.collect(group):
            setattr(
                made,
                group,
                require_methods(instantiate_checked(config[group]), protocol, "_target_", config[group]["_target_"]),
            )
    with findings.collect("sampler"):
        made.sampler = make_sampler(config["sampler"])
    with findings.collect("trainer"):
        made.trainer_config = make_trainer_config(
            config["trainer"], make_callbacks(config["trainer"].get("callbacks")), made.schedule or Schedule()
        )
    for name, node in config["observers"].items():
        with findings.collect(f"observers.{name}"):
            if node is not None:
                made.observers[name] = require_methods(
                    instantiate_checked(node), Observer, "_target_", node["_target_"]
                )
    with findings.collect("checkpoint"):
        made.retention = call_checked(Retention, config["checkpoint"])
    with findings.collect("clock"):
        made.clock = call_checked(VirtualClock, config["clock"]) if config["clock"] else None
    _faults(config["faults"], made, findings)
    with findings.collect(""):
        available_cores()
    with findings.collect(""):
        made.seed = _seed(config["seed"])
    if made.monitor is not None and made.schedule is not None:
        findings.all += _targetless(made.monitor, made.schedule)
    for key in ("check", "traceback"):
        with findings.collect(""):
            if not isinstance(config[key], bool):
                raise ConfigError(key, config[key], "must be true or false")
    return made


def _faults(node: Mapping[str, Any], made: Components, findings: ErrorCollector) -> None:
    """What is done about clients that fail, and what is to go wrong."""
    plans = {}
    for name, plan in (node.get("plans") or {}).items():
        with findings.collect(f"faults.plans.{name}"):
            plans |= {name: instantiate_checked(plan)} if plan else {}
    with findings.collect("faults"):
        rest = {key: value for key, value in node.items() if key not in ("plans", "server")}
        made.faults = replace(call_checked(FailurePolicy, rest), plans=tuple(plans.values()), names=tuple(plans))
    with findings.collect("faults.server"):
        made.crash = instantiate_checked(node["server"]) if node.get("server") else None
    if made.crash is not None and made.schedule is not None:
        findings.all += made.crash.check(made.schedule.rounds)


def build_run(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    """A run that is ready for round 1, and who watches it.

    Raises:
        Mistakes: with everything that was found wrong.
    """
    findings = ErrorCollector()
    made = make_components(config, findings)
    data = module = None
    with findings.collect("data"):
        data = make_data(config["data"], made.loading, made.seed)
    if data is not None:
        with findings.collect("model"):
            module = make_model(config["model"], data, made.seed)
        findings.all += [*check_num_clients(made.partition, data), *check_labels(data)]
        findings.all += [] if module is None else unsupported_module(module)
    findings.raise_if_any()
    assert data is not None
    assert module is not None
    federation = None
    with findings.collect(""):
        federation = Federation.of(
            lambda: module,
            data,
            made.partition,
            made.algorithm,
            made.schedule,
            seed=made.seed,
            loading=made.loading,
            recipe=made.trainer_config,
            sampler=partial(_sampled, made.sampler, findings),
            evaluations=made.evaluations,
            monitor=made.monitor,
            executor=made.executor,
            faults=made.faults,
            clock=made.clock,
        )
    findings.raise_if_any()
    assert federation is not None
    findings.all += [*warn_unused_client_tests(data, federation.worker.data), *check_compatibility(federation, data)]
    if not findings.errors():
        findings.all += try_first_step(federation, data)
    if not findings.errors():
        findings.all += check_deadline(federation)
    findings.raise_if_any()
    run = Run(folder, config, federation, data, names, tuple(findings.all), retention=made.retention, crash=made.crash)
    return run, list(made.observers.values())


def _seed(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise ConfigError("seed", given, "must be a whole number of at least 0")
    return given


def _targetless(monitor: Monitor, schedule: Schedule) -> list[ConfigError]:
    if monitor.name is not None or schedule.stop_at is None:
        return []
    why = "is the target of no metric: monitor.name is null"
    return [ConfigError("schedule.stop_at", schedule.stop_at, why, "name one there, or leave out the target")]


def _sampled(sampler: Callable[[int], Any], findings: ErrorCollector, size: int) -> Any:
    """The sampler. Raises Mistakes under its own name."""
    with findings.collect("sampler"):
        return sampler(size)
    return findings.raise_if_any()


def check_deadline(federation: Federation) -> list[ConfigError]:
    """Asked once a step was tried: what the clock says of the rounds to come."""
    if federation.clock is None:
        return []
    schedule, clients = federation.schedule, len(federation.population)
    work = federation.work(evenly_spaced_clients(clients), federation.algorithm.init(federation.initial))
    found = federation.clock.check_deadline(
        work, clients, schedule.rounds, schedule.num_sampled(clients), schedule.quorum
    )
    return list(found)
