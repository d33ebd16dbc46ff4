"""The run of a resolved configuration, with all errors in one list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from fedlit.client.module.replica import unsupported_module
from fedlit.core.errors import ConfigError, ErrorCollector
from fedlit.core.text.steps import steps
from fedlit.data import Data
from fedlit.data.checks import check_labels, check_loaders, check_num_clients
from fedlit.data.client_data import warn_unused_client_tests
from fedlit.executors.inline import torch_threads
from fedlit.experiment.config.components import make_data, make_model
from fedlit.experiment.config.parts import make_components
from fedlit.experiment.config.settings import Settings, make_settings
from fedlit.experiment.observers.observer import Observer
from fedlit.experiment.run import Run
from fedlit.experiment.trial.first_step import try_first_step
from fedlit.server.setup import Federation
from fedlit.simulation.clock import evenly_spaced_clients


def build_run(config: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> tuple[Run, list[Observer]]:
    """Build a run up to round 1.

    Returns:
        The run, and its observers.

    Raises:
        ConfigErrors: all errors of the configuration.
    """
    collector = ErrorCollector()
    settings = make_settings(config, collector)
    if not collector.errors():  # a run with errors starts no processes
        settings.executor.prepare()
    parts = make_components(config, settings, collector)
    dtype = None if parts.trainer_config is None else parts.trainer_config.dtype
    data, module = _make_data_and_model(config, settings, dtype, collector)
    federation = None
    with collector.collect(""):
        federation = Federation.of(
            lambda: module,
            data,
            settings.partition,
            settings.algorithm,
            settings.schedule,
            seed=settings.seed,
            loading=settings.loading,
            trainer_config=parts.trainer_config,
            sampler=partial(_make_sampler_of_size, settings.sampler, collector),
            channel=parts.channel,
            evaluations=settings.evaluations,
            monitor=settings.monitor,
            executor=settings.executor,
            faults=settings.faults,
            clock=settings.clock,
            log_warnings=False,
        )
    collector.raise_if_any()
    assert federation is not None
    federation = federation.with_worker(replace(federation.worker, logs_hidden=config["traceback"]))
    collector.all += [*warn_unused_client_tests(data, federation.worker.data), *federation.check(data)]
    if not collector.errors():
        steps.info("trying one step of training and an evaluation")
        with torch_threads(federation.executor.threads):
            collector.all += try_first_step(federation, data)
    if not collector.errors():
        collector.all += _check_deadline(federation)
    collector.raise_if_any()
    warnings = tuple(collector.all)
    run = Run(folder, config, federation, data, names, warnings, retention=settings.retention, crash=settings.crash)
    return run, list(parts.observers.values())


def _make_data_and_model(
    config: Mapping[str, Any], settings: Settings, dtype: torch.dtype | None, collector: ErrorCollector
) -> tuple[Data, LightningModule]:
    """Make the data and the module, whose weights have the dtype.

    Raises:
        ConfigErrors: with all errors so far.
    """
    data = module = None
    steps.info("loading the data")
    with collector.collect("data"):
        data = make_data(config["data"], settings.loading, settings.seed)
    if data is not None:
        with collector.collect("model"):
            module = make_model(config["model"], data, settings.seed, dtype)
        collector.all += [*check_num_clients(settings.partition, data), *check_labels(data)]
        collector.all += check_loaders(data, settings.loading) if settings.loading is not None else []
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
