"""A federation: `Federation.of` makes and checks it, `run` yields its rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedlit.aggregation import Aggregator, Channel, MeanAggregator
from fedlit.algorithms.algorithm import Algorithm
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import Module, TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import FederationFacts
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, seeded, stream
from fedlit.data.client_data import ClientData
from fedlit.data.loading import Loading
from fedlit.data.protocols import Partitioner
from fedlit.data.samples import Data
from fedlit.executors import Inline
from fedlit.executors.executor import Executor
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Checkpointer, NoCheckpoints
from fedlit.server.checks import check_compatibility
from fedlit.server.evaluation import Evaluations
from fedlit.server.federation import FederationParts
from fedlit.server.monitor import Monitor
from fedlit.server.rounds import run_rounds
from fedlit.server.sampling import Uniform
from fedlit.server.sampling.sampler import Sampler, as_sampler
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy


@dataclass(frozen=True, kw_only=True)
class Federation(FederationParts):
    """A federation that can run: see `FederationParts` for its parts."""

    @classmethod
    def of(
        cls,
        model: Callable[[], Module],
        data: Data,
        partition: Partitioner | Callable[..., Any],
        algorithm: Algorithm,
        schedule: Schedule,
        *,
        seed: int = 42,
        loading: Loading | None = None,
        trainer_config: TrainerConfig | None = None,
        sampler: Callable[[int], Any] = Uniform,
        channel: Channel | None = None,
        aggregator: Aggregator | None = None,
        evaluations: Evaluations | None = None,
        monitor: Monitor | None = None,
        executor: Executor | None = None,
        checkpointer: Checkpointer | None = None,
        faults: FailurePolicy | None = None,
        clock: VirtualClock | None = None,
    ) -> Federation:
        """Make a federation, and check that its parts go together.

        Args:
            model: makes the module; the seed decides its initial weights.
            data: training data of the clients, and evaluation data of the server. Without a validation set,
                `loading.val_fraction` of the training set becomes one.
            partition: decides the owner of each example.
            algorithm: the federated algorithm.
            schedule: rounds, cohort and local work.
            seed: seed of every random number.
            loading: recipe of batches.
            trainer_config: recipe of the clients' Trainers; the schedule adds local work and rates.
            sampler: makes a sampler of a cohort's size.
            channel: stages between a client's update and the sum; None for no stage.
            aggregator: adds the updates; None for the weighted mean.
            evaluations: clients whose own test sets are evaluated.
            monitor: validation metric that judges a round.
            executor: the place where jobs run; None for this process.
            checkpointer: stores each round; None stores nothing.
            faults: policy for clients that fail.
            clock: simulated speed of the clients; None for no simulated time.

        Raises:
            ConfigError: if the data lacks a property that the partition needs.
            ConfigErrors: if the parts do not go together.
        """
        loading, monitor, is_pooled = loading or Loading(), monitor or Monitor(), algorithm.pooled
        schedule = schedule.for_one_client() if is_pooled else schedule
        config = schedule.configure(trainer_config or TrainerConfig())
        replica, data = _make_replica(model, seed, config), _hold_out(data, loading, seed)
        initial = replica.read()
        algorithm = _bind(algorithm, replica, initial)
        device = config.make_trainer().strategy.root_device
        shards = ClientData.of(data, partition, loading, seed, is_pooled).to(device)
        rest = (faults or FailurePolicy(), channel or Channel(), aggregator or MeanAggregator())
        cohort = schedule.num_sampled(len(shards.population))
        return cls.assemble(
            initial=initial,
            worker=ClientWorker(algorithm, replica, config, shards, *rest),
            sampler=Uniform(1) if is_pooled else as_sampler(sampler(cohort)),
            schedule=schedule,
            evaluations=evaluations or Evaluations(),
            monitor=monitor if "val" in shards.splits else replace(monitor, name=None),
            executor=executor or Inline(),
            checkpointer=checkpointer or NoCheckpoints(),
            clock=clock,
        ).raise_if_incompatible(data)

    def raise_if_incompatible(self, data: Data) -> Federation:
        """Return this federation; raise ConfigErrors if its parts do not go together."""
        if errors := [error for error in self.check(data) if not error.warning]:
            raise ConfigErrors(errors)
        return self

    @classmethod
    def assemble(
        cls, *, initial: Model, worker: ClientWorker, sampler: Sampler, schedule: Schedule, **parts: Any
    ) -> Federation:
        """Make a federation around a worker, without any check.

        Args:
            initial: the model before round 1.
            worker: holds the client half; the server half takes algorithm, registry, channel and the rest from it.
            sampler: draws each round's cohort.
            schedule: rounds, cohort and local work.
            parts: further parts of `FederationParts`.
        """
        return cls(initial=initial, sampler=sampler, schedule=schedule, **_server_half(worker), **parts)

    def with_worker(self, worker: ClientWorker) -> Federation:
        """The same federation around another worker."""
        return replace(self, **_server_half(worker))

    def check(self, data: Data) -> list[ConfigError]:
        """The errors and warnings of all parts about each other."""
        return check_compatibility(self, federation_facts(self, data))

    def run(self, start: Checkpoint | None = None) -> Iterator[RoundRecord]:
        """Yield the record of each round: see `fedlit.server.rounds.run_rounds`."""
        return run_rounds(self, start)


def _make_replica(model: Callable[[], Module], seed: int, config: TrainerConfig) -> ModuleReplica:
    with seeded(seed, Purpose.INIT):
        return ModuleReplica(model(), config.dtype)


def _hold_out(data: Data, loading: Loading, seed: int) -> Data:
    """Hold out a validation set, unless the data has one."""
    return data if data.val is not None else data.hold_out(loading.val_fraction, stream(seed, Purpose.SPLIT))


def _server_half(worker: ClientWorker) -> dict[str, Any]:
    return {
        "worker": worker,
        "algorithm": worker.algorithm,
        "registry": worker.data.registry(),
        "trainer_config": worker.trainer_config,
        "loading": worker.data.loading,
        "faults": worker.faults,
        "channel": worker.channel,
        "aggregator": worker.aggregator,
    }


def federation_facts(federation: FederationParts, data: Data) -> FederationFacts:
    """The facts that the parts of a federation need about each other."""
    labels, registry = None if data.val is None else data.val.labels(), federation.registry
    are_classes = labels is not None and bool(data.classes) and labels.ndim == 1 and labels.dtype.kind in "iu"
    counts = np.bincount(labels, minlength=len(data.classes)) if are_classes and labels is not None else None
    schedule, module = federation.schedule, federation.worker.replica.module
    return FederationFacts(
        sizes=registry.sizes,
        cohort_size=schedule.cohort_size(len(registry)),
        splits=registry.splits,
        has_client_tests=registry.num_client_tests > 0,
        classes=data.classes,
        val_counts=counts,
        has_clock=federation.clock is not None,
        rounds=schedule.rounds,
        has_worker_processes=federation.executor.has_worker_processes,
        timeout_s=federation.executor.timeout_s,
        over_select=schedule.over_select,
        quorum=schedule.quorum,
        max_cohort=federation.sampler.max_cohort(len(registry)),
        module=type(module).__name__,
        manual_optimization=not module.automatic_optimization,
    )


def _bind(algorithm: Algorithm, replica: ModuleReplica, initial: Model) -> Algorithm:
    """Bind the algorithm to the module. Raises ConfigErrors under the key `algorithm`."""
    try:
        return algorithm.bind(replica.module, initial)
    except ConfigError as error:
        raise ConfigErrors([error.prefixed("algorithm")]) from error
