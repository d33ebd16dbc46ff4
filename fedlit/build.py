"""From a resolved configuration to a Federation, with everything that is wrong with it in one list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from lightning.pytorch import LightningModule
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.data import Data
from fedlit.data.holdings import left_out
from fedlit.data.own import as_data
from fedlit.data.samples import Loading
from fedlit.evaluation import Evaluations
from fedlit.federation import Federation
from fedlit.local import Recipe
from fedlit.make import check_types, create, make, takes, target_of
from fedlit.mistakes import Mistake, Mistakes
from fedlit.models import Classifier
from fedlit.monitor import Monitor
from fedlit.observers import Run, RunFolder
from fedlit.preflight import checked_recipe, checked_trial, cross_rules, more_clients_than_samples
from fedlit.protocols import Observer
from fedlit.schedule import Schedule
from fedlit.streams import Purpose, seeded, stream
from fedlit.weights import start_from

GROUPS = ("data", "partition", "model", "algorithm", "sampler", "schedule", "trainer", "executor", "observers")


class Findings:
    """Collects mistakes, so that one does not hide the next."""

    def __init__(self) -> None:
        self.found: list[Mistake] = []

    @contextmanager
    def within(self, group: str) -> Iterator[None]:
        """A mistake raised in the block is kept under its group's name, and the block ends."""
        try:
            yield
        except Mistake as mistake:
            self.found.append(mistake.within(group) if group else mistake)

    def stop(self) -> None:
        """Raises Mistakes if there are any that are not mere warnings."""
        if wrong := self.wrong():
            raise Mistakes(wrong)

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
    observers: Mapping[str, Any] = None  # type: ignore[assignment]
    seed: int = 0


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values.

    Raises:
        Mistakes: if a value is missing or an interpolation leads nowhere.
    """
    missing = [
        Mistake(key, "???", "has no value", f"give one: {key}=...") for key in sorted(OmegaConf.missing_keys(config))
    ]
    if missing:
        raise Mistakes(missing)
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise Mistakes([Mistake(str(error.full_key), "", str(error).splitlines()[0])]) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def parts(config: Mapping[str, Any], findings: Findings) -> Parts:
    """Makes what needs no data, and collects what is wrong with it."""
    made = Parts()
    with findings.within("schedule"):
        made.schedule = make(Schedule, config["schedule"])
    with findings.within("data"):
        made.loading = make(Loading, {key: config["data"][key] for key in _names(Loading) if key in config["data"]})
    with findings.within("monitor"):
        made.monitor = make(Monitor, config["monitor"])
    with findings.within("eval"):
        made.evaluations = make(Evaluations, config["eval"])
    for group in ("algorithm", "partition", "executor"):
        with findings.within(group):
            setattr(made, group, create(config[group]))
    with findings.within("trainer"):
        made.recipe = checked_recipe(
            config["trainer"], _callbacks(config["trainer"].get("callbacks")), made.schedule or Schedule()
        )
    with findings.within("observers"):
        made.observers = {name: create(node) for name, node in config["observers"].items() if node}
    with findings.within(""):
        if not isinstance(config["seed"], int) or config["seed"] < 0:
            raise Mistake("seed", config["seed"], "must be a whole number of at least 0")
        made.seed = config["seed"]
    for key in ("check", "traceback"):
        with findings.within(""):
            if not isinstance(config[key], bool):
                raise Mistake(key, config[key], "must be true or false")
    return made


def build(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    """A run that is ready for round 1, and who watches it.

    Raises:
        Mistakes: with everything that was found wrong.
    """
    findings = Findings()
    made = parts(config, findings)
    data = module = None
    with findings.within("data"):
        data = _data(config["data"], made.loading, made.seed)
    if data is not None:
        with findings.within("model"):
            module = _module(config["model"], data, made.seed)
        findings.found += more_clients_than_samples(made.partition, data)
    findings.stop()
    assert data is not None
    assert module is not None
    federation = None
    with findings.within("partition"):
        federation = Federation.of(
            lambda: module,
            data,
            made.partition,
            made.algorithm,
            made.schedule,
            seed=made.seed,
            loading=made.loading,
            recipe=made.recipe,
            sampler=lambda size: create(config["sampler"], size=size),
            evaluations=made.evaluations,
            monitor=made.monitor,
            executor=made.executor,
        )
    findings.stop()
    assert federation is not None
    findings.found += [*left_out(data, federation.worker.holdings), *cross_rules(federation, data)]
    if not findings.wrong():
        findings.found += checked_trial(federation, data)
    findings.stop()
    return Run(folder, config, federation, data, names, tuple(findings.found)), [RunFolder(), *made.observers.values()]


def _data(node: Mapping[str, Any], loading: Loading | None, seed: int) -> Data:
    """The data, with what is to be held out for validation held out."""
    target, loads = target_of(node), _names(Loading)  # an argument of this name is the source's as well
    own = {key: value for key, value in node.items() if key not in loads or takes(target, key)}
    with seeded(seed, Purpose.DATA):  # a user's source may draw from the global generators
        data = as_data(create(own), 0 if loading is None else loading.num_workers)
    return data if loading is None else data.hold_out(loading.val_fraction, stream(seed, Purpose.SPLIT))


def _module(node: Mapping[str, Any], data: Data, seed: int) -> LightningModule:
    """The model with its initial weights; `shape: null` and `classes: null` become the data's."""
    known = {"shape": list(data.shape), "classes": len(data.classes)}
    for key, value in known.items():
        if node.get(key) is not None and node[key] != value:
            raise Mistake(
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
            raise Mistake("network", node["network"], why, "it must be the import path of a class") from error
        check_types(network, {k: v for k, v in node.items() if k not in known and k != "_target_"})
    with seeded(seed, Purpose.INIT):
        module = create(node)
    if not isinstance(module, LightningModule):
        raise Mistake(
            "_target_", node["_target_"], f"makes a {type(module).__name__}", "it must make a LightningModule"
        )
    if start is not None:
        start_from(module, start)
    return module


def _callbacks(nodes: Any) -> Callable[[], list[Any]]:
    return partial(_create_all, list(nodes.values()) if isinstance(nodes, Mapping) else list(nodes or ()))


def _create_all(nodes: list[Mapping[str, Any]]) -> list[Any]:
    return [create(node) for node in nodes]


def _names(part: Any) -> list[str]:
    return [field.name for field in fields(part)]
