"""A federation: `Federation.of` makes and checks it, `run` yields its rounds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fedlit.aggregation import Aggregator, Channel, MeanAggregator
from fedlit.algorithms.algorithm import Algorithm, as_algorithm
from fedlit.client.dp_sgd.planning import bind_privacy, check_privacy
from fedlit.client.module.factory import ModuleSource, make_module
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.trainer import TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.facts import FederationFacts
from fedlit.core.model import Model
from fedlit.core.streams import Purpose, seeded, stream
from fedlit.data.checks import check_loaders
from fedlit.data.client_data import ClientData
from fedlit.data.custom import DataSource, to_data
from fedlit.data.loading import Loading
from fedlit.data.protocols import Partitioner
from fedlit.data.samples import Data
from fedlit.executors import Inline
from fedlit.executors.executor import Executor
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Checkpointer, NoCheckpoints
from fedlit.server.checks.compatibility import check_compatibility, federation_facts
from fedlit.server.evaluation import Evaluations
from fedlit.server.federation import FederationParts, RunObservers
from fedlit.server.monitor import Monitor
from fedlit.server.rounds import run_rounds
from fedlit.server.sampling import Uniform
from fedlit.server.sampling.sampler import Sampler, as_sampler
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy

log = logging.getLogger("fedlit")


@dataclass(frozen=True, kw_only=True, repr=False)
class Federation(FederationParts):
    """A federation that can run.

    `Federation.of` makes one of a module, data and settings. The constructor takes parts that are made already.

    Args:
        observers: observers of `run`; None for none.
        data: the data that the observers see; None without observers.
    """

    observers: RunObservers | None = None
    data: Data | None = None

    def __repr__(self) -> str:
        module, registry, rounds = type(self.worker.replica.module).__name__, self.registry, self.schedule.rounds
        numbers = sum(tensor.numel() for tensor in self.initial.parameters.values())
        return (
            f"Federation({module} of {numbers:,} parameters, {len(registry):,} clients with {registry.sizes.sum():,} examples, "
            f"{type(self.algorithm).__name__}, {rounds} round{'s' if rounds > 1 else ''}, seed {self.seed})"
        )

    @classmethod
    def of(
        cls,
        model: ModuleSource,
        data: DataSource,
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
        observers: RunObservers | None = None,
        log_warnings: bool = True,
    ) -> Federation:
        """Make a federation, and check that its parts go together.

        Args:
            model: a module, of which a copy is trained from its weights; or a class or function that makes a module, whose
                initial weights the seed decides.
            data: training data of the clients, and evaluation data of the server: a pair or triple of map-style datasets, a
                LightningDataModule, or `fedlit.Data`; see `to_data`. Without a validation set, `loading.val_fraction` of the
                training set becomes one.
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
            observers: `fedlit.Observers`, which `run` calls; None for none.
            log_warnings: True logs settings that are probably unintended.

        Raises:
            ConfigError: if the data lacks a property that the partition needs.
            ConfigErrors: if the parts do not go together.
        """
        loading, monitor, is_pooled = loading or Loading(), monitor or Monitor(), as_algorithm(algorithm).pooled
        schedule = schedule.for_one_client() if is_pooled else schedule
        config = schedule.configure(trainer_config or TrainerConfig())
        replica, data = _make_replica(model, seed, config), _prepare_data(data, loading, seed)
        initial, algorithm = replica.read(), _bind(algorithm, replica)
        shards = ClientData.of(data, partition, loading, seed, is_pooled).to(config.make_trainer().strategy.root_device)
        rest = (faults or FailurePolicy(), channel or Channel(), aggregator or MeanAggregator())
        return cls.assemble(
            initial=initial,
            worker=ClientWorker(algorithm, replica, config, shards, *rest),
            sampler=Uniform(1) if is_pooled else as_sampler(sampler(schedule.num_sampled(len(shards.population)))),
            schedule=schedule,
            evaluations=evaluations or Evaluations(),
            monitor=monitor if "val" in shards.splits else replace(monitor, name=None),
            executor=executor or Inline(),
            checkpointer=checkpointer or NoCheckpoints(),
            clock=clock,
            **_make_observed(observers, data),
        ).bound(data, log_warnings)

    def bound(self, data: Data, log_warnings: bool = False) -> Federation:
        """This federation with a channel that knows it.

        It logs warnings if wanted.

        Raises:
            ConfigErrors: if its parts do not go together.
        """
        federation = self.raise_if_incompatible(data, log_warnings)
        worker, facts = federation.worker, federation.facts(data)
        try:
            channel = federation.channel.bind(facts)
            config = bind_privacy(worker.trainer_config, self.algorithm, self.algorithm.init(self.initial), facts)
        except ConfigError as error:
            raise ConfigErrors([error]) from error
        return federation.with_worker(replace(worker, channel=channel, trainer_config=config))

    def raise_if_incompatible(self, data: Data, log_warnings: bool = False) -> Federation:
        """Return this federation, and log warnings if wanted.

        Raises:
            ConfigErrors: if its parts do not go together.
        """
        found = self.check(data)
        if errors := [error for error in found if not error.warning]:
            raise ConfigErrors(errors)
        for warning in [*check_loaders(data, self.loading), *found] if log_warnings else ():
            log.warning("%s", warning)
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

    def facts(self, data: Data) -> FederationFacts:
        """The facts that the parts need about each other."""
        labels = None if data.val is None else data.val.labels()
        return federation_facts(self, data.classes, labels, self.worker.replica.module)

    def check(self, data: Data) -> list[ConfigError]:
        """The errors and warnings of all parts about each other."""
        facts, worker = self.facts(data), self.worker
        private = check_privacy(worker.trainer_config, worker.replica, worker.data, facts)
        return [*check_compatibility(self, facts), *private]

    def run(self, start: Checkpoint | None = None) -> Iterator[RoundRecord]:
        """Yield the record of each round: see `fedlit.server.rounds.run_rounds`."""
        return run_rounds(self, start) if self.observers is None else self.observers.watch(self, start)


def _make_replica(model: ModuleSource, seed: int, config: TrainerConfig) -> ModuleReplica:
    with seeded(seed, Purpose.INIT):
        return ModuleReplica(make_module(model), config.dtype)


def _make_observed(observers: RunObservers | None, data: Data) -> dict[str, Any]:
    """Return observers and their data as fields of a federation."""
    if observers is None:
        return {}
    if not isinstance(observers, RunObservers):
        hint = "write observers=fedlit.Observers([...], folder=...)"
        raise ConfigError("observers", type(observers).__name__, "is not a fedlit.Observers", hint)
    return {"observers": observers, "data": data}


def _prepare_data(source: DataSource, loading: Loading, seed: int) -> Data:
    """Convert the user's data, and hold out a missing validation set."""
    try:
        data = to_data(source, loading.num_workers)
    except ConfigError as error:  # the key of a configuration is `_target_`
        raise ConfigError("data", error.value, error.problem, error.hint) from error
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


def _bind(algorithm: Algorithm, replica: ModuleReplica) -> Algorithm:
    """Bind the algorithm to the module. Raises ConfigErrors under the key `algorithm`."""
    try:
        return algorithm.bind(replica.module, replica.read())
    except ConfigError as error:
        raise ConfigErrors([error.prefixed("algorithm")]) from error
