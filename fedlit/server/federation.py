"""The federation: a server, its clients, and the loop over rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedlit.aggregation.mean import ReductionTree, make_train_jobs
from fedlit.algorithms.algorithm import Algorithm, bind
from fedlit.client.trainer import Module, ModuleReplica, TrainerConfig, planned_steps
from fedlit.client.worker import ClientWorker
from fedlit.core import serialization as wire
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import EvalResult, Model, PartialAggregate, ServerState
from fedlit.core.streams import Purpose, seeded, stream
from fedlit.core.tensors import Layout
from fedlit.data import Data
from fedlit.data.client_data import ClientData
from fedlit.data.population import Population
from fedlit.data.protocols import Partitioner
from fedlit.data.samples import Loading
from fedlit.executors import Inline
from fedlit.executors.executor import Execute, Executor
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Checkpointer, NoCheckpoints
from fedlit.server.checks import check_compatibility
from fedlit.server.client_store import ClientStateStore
from fedlit.server.evaluation import Evaluations, combine_results
from fedlit.server.fingerprint import fingerprint
from fedlit.server.monitor import Monitor
from fedlit.server.rounds import make_record
from fedlit.server.sampling import Uniform
from fedlit.server.sampling.cohort import RoundPlan, drawn
from fedlit.server.sampling.sampler import Sampler
from fedlit.server.schedule import Schedule
from fedlit.simulation.clock import RoundWork, VirtualClock
from fedlit.simulation.faults import FailurePolicy


@dataclass(frozen=True)
class Federation:
    """Everything that a run needs. `run` yields its rounds.

    Args:
        initial: the model before round 1.
        worker: what trains clients and evaluates.
        sampler: who takes part in a round.
        schedule: how long and how much.
        seed: of every random number.
        evaluations: which clients are evaluated on their own test samples, if they have any.
        monitor: which metric `schedule.stop_at` is about.
        executor: where jobs are done.
        commits: where rounds are kept.
        clock: how long clients take; None where nobody asks.
    """

    initial: Model
    worker: ClientWorker
    sampler: Sampler
    schedule: Schedule
    seed: int
    evaluations: Evaluations = field(default_factory=Evaluations)
    monitor: Monitor = field(default_factory=Monitor)
    executor: Executor = field(default_factory=Inline)
    checkpointer: Checkpointer = field(default_factory=NoCheckpoints)
    clock: VirtualClock | None = None

    @classmethod
    def of(
        cls,
        model: Callable[[], Module],
        data: Data,
        partition: Partitioner,
        algorithm: Algorithm,
        schedule: Schedule,
        *,
        seed: int = 42,
        loading: Loading | None = None,
        recipe: TrainerConfig | None = None,
        sampler: Callable[[int], Sampler] = Uniform,
        evaluations: Evaluations | None = None,
        monitor: Monitor | None = None,
        executor: Executor | None = None,
        commits: Checkpointer | None = None,
        faults: FailurePolicy | None = None,
        clock: VirtualClock | None = None,
    ) -> Federation:
        """A federation of its parts.

        Args:
            model: makes the module, whose initial weights the seed decides.
            data: what the clients share and the server evaluates on; if it has no validation set,
                `loading.val_fraction` of the training set becomes one.
            partition: who owns which sample.
            algorithm, schedule: what is run, and how long.
            seed: of every random number.
            loading: how samples become batches.
            recipe: how clients' Trainers are made; local work and rates are those of the schedule.
            sampler: makes a sampler of a cohort's size.
            evaluations: which clients are evaluated on their own test samples.
            monitor: which validation metric a round is judged by.
            executor: where jobs are done.
            commits: where rounds are kept; None for nowhere.
            faults: what is done about clients that fail.
            clock: how long clients take, and who is waited for; None for everybody.

        Raises:
            Mistake: if the data does not have what the partition goes by.
            Mistakes: if the parts do not go together.
        """
        loading, monitor = loading or Loading(), monitor or Monitor()
        with seeded(seed, Purpose.INIT):
            bench = ModuleReplica(model())
        if data.val is None:
            data = data.hold_out(loading.val_fraction, stream(seed, Purpose.SPLIT))
        initial, pooled = bench.read(), bool(getattr(algorithm, "pooled", False))
        schedule = schedule.for_one_client() if pooled else schedule
        algorithm = _settled(algorithm, bench, initial)
        recipe = (recipe or TrainerConfig()).with_schedule(schedule)
        holdings = ClientData.of(data, partition, loading, seed, pooled).to(recipe.make_trainer().strategy.root_device)
        made = cls(
            initial,
            ClientWorker(algorithm, bench, recipe, holdings, faults or FailurePolicy()),
            Uniform(1) if pooled else sampler(schedule.num_sampled(len(holdings.population))),
            schedule,
            seed,
            evaluations or Evaluations(),
            monitor if "val" in holdings.splits else replace(monitor, name=None),
            executor or Inline(),
            commits or NoCheckpoints(),
            clock,
        )
        return _checked(made, data)

    @property
    def algorithm(self) -> Algorithm:
        """Whose two halves are run."""
        return self.worker.algorithm

    @property
    def population(self) -> Population:
        """The clients and their shards."""
        return self.worker.data.population

    @property
    def splits(self) -> tuple[str, ...]:
        """What the server evaluates on."""
        return tuple(self.worker.data.splits)

    def run(self, saved: Checkpoint | None = None) -> Iterator[RoundRecord]:
        """Algorithm 1 of McMahan et al. (2017), a record a round; every draw is keyed by (seed, purpose, round, client).

        Args:
            saved: where to go on; None for where `commits` says, or the beginning.

        Raises:
            LostRounds: when too many rounds in a row were lost, also if the last is one of them.
            LostWorkers: when worker processes are lost so often that there is no result.
            Mistake: if another process is at the commits.
            Mistakes: if the commits are of another experiment.
        """
        with self.checkpointer.open(fingerprint(self)):
            saved = (
                saved or self.checkpointer.load() or Checkpoint(self.algorithm.init(self.initial), ClientStateStore())
            )
            yield from self._rounds(saved)
            self.checkpointer.finish()

    def _rounds(self, saved: Checkpoint) -> Iterator[RoundRecord]:
        """The rounds that are left."""
        state, store, last = saved.state, saved.client_states, saved.last
        lost = self.worker.faults.carried_over(saved.lost_in_a_row)
        with self.executor.open(self.worker, self.schedule.rounds - state.round) as execute:  # for the whole run
            while state.round < self.schedule.rounds and not self.monitor.has_reached(last, self.schedule.stop_at):
                self.worker.faults.raise_if_too_many_lost(lost)
                begin, t = time.perf_counter(), state.round
                call = self.call(t, state, execute)
                tally = ReductionTree(call.failures, call.bytes)  # starts from zeros
                for partial in execute(make_train_jobs(t, call.clients, store.read(call.clients), call.budgets), state):
                    assert isinstance(partial, PartialAggregate)
                    tally.add(partial)  # in index order
                mean, why = tally.finish(self.schedule.quorum, len(self.population))
                why = why if call.cohort else "nobody was sampled"
                if mean is not None:  # else a lost round: the model stays
                    state = self.algorithm.server(state, mean)
                    store.update(t + 1, tally.client_states)
                state = replace(state, round=t + 1)
                trained = {"time/train_s": time.perf_counter() - begin}
                scores = self.evaluate(t, state, store, call.cohort, execute)
                took = {**call.metrics, **trained, "time/round_s": time.perf_counter() - begin}
                more = {**tally.drift(mean), **scores, **took, "schedule/lr_factor": self.schedule.lr_factor(t)}
                last = make_record(self.algorithm, call.cohort, tally, state, more, why)
                lost = (lost + 1 if last.lost else 0) if last.attempted else lost
                self.checkpointer.commit(state, store, last)  # all of the round or none of it
                yield last
            self.worker.faults.raise_if_too_many_lost(lost)

    def call(self, round: int, state: ServerState, execute: Execute | None = None) -> RoundPlan:
        """Who is asked in a round, counted from 0.

        Args:
            round: which.
            state: before it.
            execute: what does the jobs by which a sampler asks for losses; None does them in this process.

        Raises:
            Mistake: if there is no clock, and those who finish first are asked for.
        """
        asked = execute or (lambda jobs, state: (self.worker(job, state) for job in jobs))
        drew = drawn(self.sampler, self.population.sizes, self.seed, state, round, asked)
        down, over = wire.state_nbytes(state.shared), self.schedule.over_select
        call = RoundPlan(drew.cohort, failures=drew.failures, bytes=drew.bytes)
        sent = {**drew.metrics, "comm/down_bytes": down * drew.sent}
        if self.clock is None:
            if over > 1:
                raise ConfigError("schedule.over_select", over, "needs a clock", "Federation.of(..., clock=Clock(...))")
            return replace(call, metrics=sent)
        first = self.schedule.cohort_size(len(self.population)) if over > 1 else None
        timed = self.clock.time_cohort(self.work(drew.cohort, state), first)
        failures, metrics = (*call.failures, *timed.failures), {**sent, **timed.metrics}
        return replace(call, asked=timed.clients, budgets=timed.budgets, failures=failures, metrics=metrics)

    def work(self, clients: Sequence[int], state: ServerState) -> RoundWork:
        """The work of some clients in the round after a state."""
        sizes = np.asarray([self.population.size(client) for client in clients], dtype=np.int64)
        return RoundWork(
            clients=clients,
            steps=planned_steps(self.worker.trainer_config, self.worker.data.loading, sizes),
            down_bytes=wire.state_nbytes(state.shared),
            up_bytes=8 + 4 * Layout.of(self.worker.update_template(state)).size,
            seed=self.seed,
        )

    def evaluate(
        self, round: int, state: ServerState, store: ClientStateStore, cohort: Sequence[int], execute: Execute
    ) -> dict[str, float]:
        """The global model's metrics on every split, and on clients' own test samples those of the model that each uses, in
        the rounds in which there is an evaluation."""
        if not self.schedule.is_evaluated(round):
            return {}
        held, memories = self.worker.data, store.read if hasattr(self.algorithm, "personal") else None
        those = held.clients_to_evaluate(cohort)
        jobs = self.evaluations.make_jobs(round, self.splits, held.num_client_tests, those, self.seed, memories)
        return combine_results(scores for scores in execute(jobs, state) if isinstance(scores, EvalResult))


def _checked(made: Federation, data: Data) -> Federation:
    if wrong := [mistake for mistake in check_compatibility(made, data) if not mistake.warning]:
        raise ConfigErrors(wrong)
    return made


def _settled(algorithm: Algorithm, bench: ModuleReplica, initial: Model) -> Algorithm:
    """The algorithm as it is for a module. Raises Mistakes under its own name, wherever it is made."""
    try:
        return bind(algorithm, bench.module, initial)
    except ConfigError as mistake:
        raise ConfigErrors([mistake.prefixed("algorithm")]) from mistake
