"""The run of a resolved configuration, with all errors in one list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedlit.client.module.replica import unsupported_module
from fedlit.core.errors import ConfigError, ConfigErrors, ErrorCollector
from fedlit.data import Data
from fedlit.data.checks import check_labels, check_num_clients
from fedlit.data.client_data import warn_unused_client_tests
from fedlit.experiment.config.components import make_data, make_model
from fedlit.experiment.config.parts import Components, make_components
from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.run import Run
from fedlit.experiment.trial.first_step import try_first_step
from fedlit.runs.keys import NESTED_KEYS, REQUIRED_KEYS
from fedlit.server.setup import Federation
from fedlit.simulation.clock import evenly_spaced_clients


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values.

    Raises:
        ConfigErrors: if a key or a value is missing, a group has no keys, or an interpolation fails.
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
        raise ConfigErrors(
            [*absent, *(ConfigError(key, values[key], "must be a mapping of keys to values") for key in flat)]
        )
    return {str(key): value for key, value in values.items()}


def build_run(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    """Build a run up to round 1.

    Returns:
        The run, and its observers.

    Raises:
        ConfigErrors: all errors of the configuration.
    """
    collector = ErrorCollector()
    parts = make_components(config, collector)
    data, module = _make_data_and_model(config, parts, collector)
    federation = None
    with collector.collect(""):
        federation = Federation.of(
            lambda: module,
            data,
            parts.partition,
            parts.algorithm,
            parts.schedule,
            seed=parts.seed,
            loading=parts.loading,
            trainer_config=parts.trainer_config,
            sampler=partial(_make_sampler_of_size, parts.sampler, collector),
            channel=parts.channel,
            evaluations=parts.evaluations,
            monitor=parts.monitor,
            executor=parts.executor,
            faults=parts.faults,
            clock=parts.clock,
        )
    collector.raise_if_any()
    assert federation is not None
    collector.all += [*warn_unused_client_tests(data, federation.worker.data), *federation.check(data)]
    if not collector.errors():
        collector.all += try_first_step(federation, data)
    if not collector.errors():
        collector.all += _check_deadline(federation)
    collector.raise_if_any()
    warnings = tuple(collector.all)
    run = Run(folder, config, federation, data, names, warnings, retention=parts.retention, crash=parts.crash)
    return run, list(parts.observers.values())


def _make_data_and_model(
    config: Mapping[str, Any], parts: Components, collector: ErrorCollector
) -> tuple[Data, LightningModule]:
    """Make the data and the module.

    Raises:
        ConfigErrors: with all errors so far.
    """
    data = module = None
    with collector.collect("data"):
        data = make_data(config["data"], parts.loading, parts.seed)
    if data is not None:
        with collector.collect("model"):
            module = make_model(config["model"], data, parts.seed)
        collector.all += [*check_num_clients(parts.partition, data), *check_labels(data)]
        collector.all += [] if module is None else unsupported_module(module)
    collector.raise_if_any()
    assert data is not None
    assert module is not None
    return data, module


def _make_sampler_of_size(sampler: Callable[[int], Any], collector: ErrorCollector, size: int) -> Any:
    """Make the sampler. Raises ConfigErrors under the key `sampler`."""
    with collector.collect("sampler"):
        return sampler(size)
    return collector.raise_if_any()


def _check_deadline(federation: Federation) -> list[ConfigError]:
    """Errors and warnings of the clock about the rounds to come."""
    if federation.clock is None:
        return []
    schedule, clients = federation.schedule, len(federation.registry)
    work = federation.round_work(evenly_spaced_clients(clients), federation.initial_state())
    sampled, quorum = schedule.num_sampled(clients), schedule.quorum
    return list(federation.clock.check_deadline(work, clients, schedule.rounds, sampled, quorum))
