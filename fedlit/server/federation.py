"""The parts of a federation, and what can be computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedlit.aggregation import Aggregator, Channel, MeanAggregator
from fedlit.aggregation.aggregator import ReductionTree
from fedlit.aggregation.basis import find_basis
from fedlit.aggregation.channel.downlink import broadcast, broadcast_nbytes
from fedlit.aggregation.secure.reply import received_layout
from fedlit.algorithms.algorithm import Algorithm, update_template
from fedlit.client.dp_sgd.accounting import privacy_metrics
from fedlit.client.dp_sgd.planning import history_after_round
from fedlit.client.steps.planned import planned_steps
from fedlit.client.trainer import LocalTrainer, TrainerConfig
from fedlit.client.worker import ClientWorker
from fedlit.core.facts import Sampling
from fedlit.core.messages import Outcome, ServerState, Update
from fedlit.core.model import Model
from fedlit.core.tensors import Groups, Layout
from fedlit.data.loading import Loading
from fedlit.data.registry import ClientRegistry
from fedlit.executors import Inline
from fedlit.executors.executor import Executor
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Checkpointer, NoCheckpoints
from fedlit.server.client_store import ClientStateStore
from fedlit.server.evaluation import Evaluations
from fedlit.server.monitor import Monitor
from fedlit.server.sampling.sampler import Sampler
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import VirtualClock
from fedlit.simulation.faults import FailurePolicy
from fedlit.simulation.timing import RoundWork

UNSEEN_TRAINING: tuple[Outcome, ...] = ("deadline", "surplus", "lost_worker")
"""Outcomes of clients that can have trained without a result that the server gets."""


@runtime_checkable
class RunObservers(Protocol):
    """The observers of a federation in a script: `fedlit.Observers`."""

    def watch(self, federation: Any, start: Checkpoint | None = None) -> Iterator[RoundRecord]:
        """Yield the record of each round, after the observers have seen it."""
        ...


@dataclass(frozen=True, kw_only=True)
class FederationParts:
    """Everything that a run needs.

    The server knows the data by its registry only.

    Args:
        initial: the model before round 1.
        algorithm: the algorithm, whose server half runs here.
        registry: the clients, as the server knows them.
        worker: executes jobs; it holds the algorithm's client half and the data.
        sampler: draws each round's cohort.
        schedule: rounds, cohort and local work.
        trainer_config: recipe of the clients' Trainers.
        loading: recipe of batches.
        faults: policy for clients that fail.
        channel: stages between a client's update and the sum.
        aggregator: adds the updates.
        evaluations: clients whose own test sets are evaluated.
        monitor: metric that `schedule.stop_at` is about.
        executor: the place where jobs run.
        checkpointer: stores each round.
        clock: simulated speed of the clients; None for no simulated time.
    """

    initial: Model
    algorithm: Algorithm
    registry: ClientRegistry
    worker: ClientWorker
    sampler: Sampler
    schedule: Schedule
    trainer_config: TrainerConfig
    loading: Loading
    faults: FailurePolicy
    channel: Channel = field(default_factory=Channel)
    aggregator: Aggregator = field(default_factory=MeanAggregator)
    evaluations: Evaluations = field(default_factory=Evaluations)
    monitor: Monitor = field(default_factory=Monitor)
    executor: Executor = field(default_factory=Inline)
    checkpointer: Checkpointer = field(default_factory=NoCheckpoints)
    clock: VirtualClock | None = None

    @property
    def seed(self) -> int:
        """The experiment's seed."""
        return self.registry.seed

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the server evaluates."""
        return self.registry.splits

    @property
    def sampling(self) -> Sampling:
        """The choice of the clients that train."""
        return self.schedule.trained_sampling(self.sampler.sampling(len(self.registry)))

    def initial_state(self) -> ServerState:
        """The server state before round 1."""
        state = self.algorithm.init(self.initial)
        if not self.channel.stages:
            return state
        return replace(state, channel=self.channel.init(self.update_layout(state)))

    def update_template(self, state: ServerState | None = None) -> Groups:
        """Names, shapes and dtypes of an update after a state.

        Args:
            state: the server state; None for the one before round 1.
        """
        shared = self.algorithm.init(self.initial).shared if state is None else state.shared
        return update_template(self.algorithm, shared)

    def update_layout(self, state: ServerState) -> Layout:
        """The layout of an update in the round after a state."""
        return Layout.of(self.update_template(state))

    def up_nbytes(self, state: ServerState) -> int:
        """Bytes that one client sends in the round after a state."""
        return self.channel.nbytes(self.update_layout(state))

    def down_nbytes(self, state: ServerState) -> int:
        """Bytes that one client receives in the round after a state."""
        return broadcast_nbytes(self.channel.down, state)

    def exchange_nbytes(self, state: ServerState | None = None) -> tuple[int, int]:
        """Bytes of one client's exchanges besides model and update: up, down."""
        basis = find_basis(self.channel.stages)
        if basis is None and self.channel.secure is None:
            return 0, 0
        layout = self.update_layout(self.initial_state() if state is None else state)
        if basis is not None:
            return basis.exchange_nbytes(layout)
        assert self.channel.secure is not None
        groups = self.channel.secure.groups(range(self.schedule.cohort_size(len(self.registry))))
        return self.channel.secure.exchange_nbytes(len(groups[0]), received_layout(self.channel, layout))

    def broadcast(self, state: ServerState) -> ServerState:
        """The state as the clients of the next round receive it."""
        return broadcast(self.channel.down, state, self.seed)

    @property
    def hides_clients(self) -> bool:
        """True if what modules log in training stays with the clients."""
        return self.channel.hides_clients or self.trainer_config.privacy is not None

    def charge(self, tree: ReductionTree, clients: ClientStateStore, last: RoundRecord | None) -> dict[str, float]:
        """Charge clients for their training, also in a lost round.

        A client whose update is late, or whose worker process is lost for good, is charged for all steps of the round.

        Args:
            tree: the sum of the round's updates.
            clients: client states, which get the clients' privacy histories.
            last: the record of the round before; None in the first round.

        Returns:
            Figures of privacy for the round's record; none without privacy in local training.
        """
        before, config = {} if last is None else last.metrics, self.trainer_config
        if config.privacy is None:
            return {}
        failed = (failure.client for failure in tree.failures if failure.outcome in UNSEEN_TRAINING)
        unseen = [client for client in failed if client not in tree.spent]
        states, sizes = clients.read(unseen), self.registry.sizes
        histories = {
            client: history_after_round(config, self.loading, int(sizes[client]), states.get(client, {}))
            for client in unseen
        }
        spent = {**histories, **tree.spent}
        clients.charge(spent)
        return privacy_metrics(config.privacy, spent, tree.metrics(), before)

    def planned_steps(self, sizes: np.ndarray) -> np.ndarray:
        """Planned optimizer steps of clients with these numbers of examples, shape (n,)."""
        return planned_steps(self.trainer_config, self.loading, sizes)

    def round_work(self, clients: Sequence[int], state: ServerState) -> RoundWork:
        """The work of some clients in the round after a state."""
        up_more, down_more = self.exchange_nbytes(state)
        return RoundWork(
            clients=clients,
            steps=self.planned_steps(self.registry.sizes[list(clients)]),
            down_bytes=self.down_nbytes(state) + down_more,
            up_bytes=self.up_nbytes(state) + up_more,
            seed=self.seed,
        )

    def dry_run(
        self,
        client: int,
        state: ServerState | None = None,
        client_state: Groups | None = None,
        *,
        steps: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> tuple[LocalTrainer, Update]:
        """Run one client's rule without any effect: see `ClientWorker.dry_run`.

        Args:
            client: id of the client.
            state: the server state; None for the one before round 1.
            client_state: the client's state; None in its first round.
            steps: optimizer steps of each fit; None for the schedule's local work.
            callbacks: Lightning callbacks that each fit gets besides its own.

        Returns:
            The client's local training, with the results of its fits, and its update.
        """
        state = self.initial_state() if state is None else state
        return self.worker.dry_run(client, state, client_state or {}, steps, callbacks)
