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
from fedlit.client.replica import unfit
from fedlit.client.trainer import Recipe
from fedlit.core.errors import Mistake, Mistakes
from fedlit.data.checks import more_clients_than_samples, odd_labels
from fedlit.data.client_data import left_out
from fedlit.data.protocols import Partitioner
from fedlit.data.samples import Loading
from fedlit.executors.executor import Executor
from fedlit.executors.resources import cores
from fedlit.experiment.config.components import LOADING, callbacks, model, sampler, source
from fedlit.experiment.config.instantiate import create, make
from fedlit.experiment.config.keys import KEYED, KEYS
from fedlit.experiment.config.trainer_args import checked_recipe
from fedlit.experiment.config.trial import checked_trial
from fedlit.experiment.observers import Run
from fedlit.experiment.observers.observer import Observer
from fedlit.server.checkpoint.disk import Keeping
from fedlit.server.checks import cross_rules, speaks
from fedlit.server.evaluation import Evaluations
from fedlit.server.federation import Federation
from fedlit.server.monitor import Monitor
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import Clock, spaced
from fedlit.simulation.faults import Faults
from fedlit.simulation.server_crash import CrashServer


class Findings:
    """Collects mistakes, so that one does not hide the next."""

    def __init__(self) -> None:
        self.found: list[Mistake] = []

    @contextmanager
    def within(self, group: str) -> Iterator[None]:
        """Mistakes raised in the block are kept under their group's name, or those that they have, and the block ends."""
        try:
            yield
        except (Mistake, Mistakes) as wrong:
            raised = wrong.within(group) if group else wrong
            self.found += [mistake for mistake in raised.found if mistake not in self.found]

    def stop(self) -> None:
        """Raises Mistakes if there are any that are not mere warnings."""
        if wrong := self.wrong():
            raise Mistakes(wrong) from next((mistake for mistake in wrong if mistake.__cause__), None)

    def wrong(self) -> list[Mistake]:
        """The mistakes with which a run may not begin."""
        return [mistake for mistake in self.found if not mistake.warning]


@dataclass
class Parts:
    """What can be made without data; an attribute is None where a mistake was found."""

    schedule: Schedule = None  # type: ignore[assignment]
    loading: Loading = None  # type: ignore[assignment]
    algorithm: Any = None
    partition: Any = None
    executor: Any = None
    monitor: Monitor = None  # type: ignore[assignment]
    recipe: Recipe = None  # type: ignore[assignment]
    evaluations: Evaluations = None  # type: ignore[assignment]
    sampler: Callable[[int], Any] = None  # type: ignore[assignment]
    observers: dict[str, Any] = field(default_factory=dict)
    keeping: Keeping = None  # type: ignore[assignment]
    faults: Faults = None  # type: ignore[assignment]
    crash: CrashServer | None = None
    clock: Clock | None = None
    seed: int = 0


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values.

    Raises:
        Mistakes: if a key or a value is missing, a group has no keys, or an interpolation leads nowhere.
    """
    missing = [
        Mistake(key, "???", "has no value", f"give one: {key}=...") for key in sorted(OmegaConf.missing_keys(config))
    ]
    if missing:
        raise Mistakes(missing)
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise Mistakes([Mistake(str(error.full_key), "", str(error).splitlines()[0])]) from error
    absent = [Mistake(key, "", "is not in the configuration", "it has no default") for key in KEYS if key not in values]
    flat = [key for key in KEYED if key in values and not isinstance(values[key], Mapping)]
    if absent or flat:
        raise Mistakes([*absent, *(Mistake(key, values[key], "must be keys with values") for key in flat)])
    return {str(key): value for key, value in values.items()}


def parts(config: Mapping[str, Any], findings: Findings) -> Parts:
    """Makes what needs no data, and collects what is wrong with it."""
    made = Parts()
    with findings.within("schedule"):
        made.schedule = make(Schedule, config["schedule"])
    with findings.within("data"):
        made.loading = make(Loading, {key: config["data"][key] for key in LOADING if key in config["data"]})
    with findings.within("monitor"):
        made.monitor = make(Monitor, config["monitor"])
    with findings.within("eval"):
        made.evaluations = make(Evaluations, config["eval"])
    for group, protocol in (("algorithm", Algorithm), ("partition", Partitioner), ("executor", Executor)):
        with findings.within(group):
            setattr(made, group, speaks(create(config[group]), protocol, "_target_", config[group]["_target_"]))
    with findings.within("sampler"):
        made.sampler = sampler(config["sampler"])
    with findings.within("trainer"):
        made.recipe = checked_recipe(
            config["trainer"], callbacks(config["trainer"].get("callbacks")), made.schedule or Schedule()
        )
    for name, node in config["observers"].items():
        with findings.within(f"observers.{name}"):
            if node is not None:
                made.observers[name] = speaks(create(node), Observer, "_target_", node["_target_"])
    with findings.within("checkpoint"):
        made.keeping = make(Keeping, config["checkpoint"])
    with findings.within("clock"):
        made.clock = make(Clock, config["clock"]) if config["clock"] else None
    _faults(config["faults"], made, findings)
    with findings.within(""):
        cores()
    with findings.within(""):
        made.seed = _seed(config["seed"])
    if made.monitor is not None and made.schedule is not None:
        findings.found += _targetless(made.monitor, made.schedule)
    for key in ("check", "traceback"):
        with findings.within(""):
            if not isinstance(config[key], bool):
                raise Mistake(key, config[key], "must be true or false")
    return made


def _faults(node: Mapping[str, Any], made: Parts, findings: Findings) -> None:
    """What is done about clients that fail, and what is to go wrong."""
    plans = {}
    for name, plan in (node.get("plans") or {}).items():
        with findings.within(f"faults.plans.{name}"):
            plans |= {name: create(plan)} if plan else {}
    with findings.within("faults"):
        rest = {key: value for key, value in node.items() if key not in ("plans", "server")}
        made.faults = replace(make(Faults, rest), plans=tuple(plans.values()), names=tuple(plans))
    with findings.within("faults.server"):
        made.crash = create(node["server"]) if node.get("server") else None
    if made.crash is not None and made.schedule is not None:
        findings.found += made.crash.check(made.schedule.rounds)


def build(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    """A run that is ready for round 1, and who watches it.

    Raises:
        Mistakes: with everything that was found wrong.
    """
    findings = Findings()
    made = parts(config, findings)
    data = module = None
    with findings.within("data"):
        data = source(config["data"], made.loading, made.seed)
    if data is not None:
        with findings.within("model"):
            module = model(config["model"], data, made.seed)
        findings.found += [*more_clients_than_samples(made.partition, data), *odd_labels(data)]
        findings.found += [] if module is None else unfit(module)
    findings.stop()
    assert data is not None
    assert module is not None
    federation = None
    with findings.within(""):
        federation = Federation.of(
            lambda: module,
            data,
            made.partition,
            made.algorithm,
            made.schedule,
            seed=made.seed,
            loading=made.loading,
            recipe=made.recipe,
            sampler=partial(_sampled, made.sampler, findings),
            evaluations=made.evaluations,
            monitor=made.monitor,
            executor=made.executor,
            faults=made.faults,
            clock=made.clock,
        )
    findings.stop()
    assert federation is not None
    findings.found += [*left_out(data, federation.worker.holdings), *cross_rules(federation, data)]
    if not findings.wrong():
        findings.found += checked_trial(federation, data)
    if not findings.wrong():
        findings.found += foreseen(federation)
    findings.stop()
    run = Run(folder, config, federation, data, names, tuple(findings.found), keeping=made.keeping, crash=made.crash)
    return run, list(made.observers.values())


def _seed(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise Mistake("seed", given, "must be a whole number of at least 0")
    return given


def _targetless(monitor: Monitor, schedule: Schedule) -> list[Mistake]:
    if monitor.name is not None or schedule.stop_at is None:
        return []
    why = "is the target of no metric: monitor.name is null"
    return [Mistake("schedule.stop_at", schedule.stop_at, why, "name one there, or leave out the target")]


def _sampled(sampler: Callable[[int], Any], findings: Findings, size: int) -> Any:
    """The sampler. Raises Mistakes under its own name."""
    with findings.within("sampler"):
        return sampler(size)
    return findings.stop()


def foreseen(federation: Federation) -> list[Mistake]:
    """Asked once a step was tried: what the clock says of the rounds to come."""
    if federation.clock is None:
        return []
    schedule, clients = federation.schedule, len(federation.population)
    work = federation.work(spaced(clients), federation.algorithm.init(federation.initial))
    found = federation.clock.foresee(work, clients, schedule.rounds, schedule.sampled(clients), schedule.quorum)
    return list(found)
