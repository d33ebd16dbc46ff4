"""Execution of jobs: train clients and sum their updates, measure losses, evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial, singledispatchmethod

import torch
from lightning.pytorch import Callback

from fedlit.aggregation import Aggregator, Channel, MeanAggregator
from fedlit.aggregation.aggregator import merge
from fedlit.aggregation.chunk import ChunkSum
from fedlit.aggregation.secure.vault import Vault
from fedlit.aggregation.validation import UpdateTemplate
from fedlit.algorithms.algorithm import Algorithm, update_template
from fedlit.client.dp_sgd.planning import make_private_training
from fedlit.client.evaluation import evaluate_split
from fedlit.client.exchange.sending import answer_exchange, send_update
from fedlit.client.failures import FailureReports, without_stop_iteration
from fedlit.client.fit.call import LocalWork
from fedlit.client.fit.single import SingleWork
from fedlit.client.lightning_internals import trainer_scope
from fedlit.client.losses.query import answer_loss_query
from fedlit.client.module.replica import ModuleReplica
from fedlit.client.steps.optimizer_state import algorithm_state
from fedlit.client.trainer import LocalTrainer, Reply, TrainerConfig
from fedlit.client.vectorized.together import StackTraining
from fedlit.client.vectorized.trial import try_stacks
from fedlit.core.errors import FatalClientFailure
from fedlit.core.messages import (
    ClientFailure,
    EvalResult,
    EvaluateJob,
    ExchangeJob,
    ExchangeResult,
    Job,
    LossJob,
    LossResult,
    PartialAggregate,
    Result,
    ServerState,
    TrainJob,
    Update,
)
from fedlit.core.model import Model
from fedlit.core.streams import spare_normal_kept
from fedlit.core.tensors import Groups
from fedlit.data.client_data import ClientData
from fedlit.simulation.faults import FailurePolicy, begin_faults


@dataclass
class ClientWorker:
    """Everything that a job needs besides the server state.

    Args:
        algorithm: the algorithm whose client half runs.
        replica: the module.
        trainer_config: recipe of a client's Trainer.
        data: examples of the clients and of the server.
        faults: policy for clients that fail.
        channel: stages between the client's update and the sum.
        aggregator: adds the updates.
        guards_weights: see `LocalTrainer`.
        stacks: trains the clients of a job together; None to train them one by one.
        vault: seals what clients keep between two exchanges of a round.
        logs_hidden: whether errors whose text is not in the record are logged where they happen.
    """

    algorithm: Algorithm
    replica: ModuleReplica
    trainer_config: TrainerConfig
    data: ClientData
    faults: FailurePolicy = field(default_factory=FailurePolicy)
    channel: Channel = field(default_factory=Channel)
    aggregator: Aggregator = field(default_factory=MeanAggregator)
    guards_weights: bool = False
    stacks: StackTraining | None = None
    vault: Vault = field(default_factory=Vault)
    logs_hidden: bool = False
    _template: tuple[int, UpdateTemplate] | None = None  # the round, and the template of its updates

    @property
    def device(self) -> torch.device:
        """Device of the clients' Trainers."""
        return self.trainer_config.make_trainer().strategy.root_device

    @property
    def reports(self) -> FailureReports:
        """The reports of failing clients, which may hide texts."""
        hides = self.channel.hides_clients or self.trainer_config.privacy is not None
        return FailureReports(hides, self.logs_hidden)

    def on_device(self, device: torch.device) -> ClientWorker:
        """The same worker with its examples on a device."""
        return replace(self, data=self.data.to(device))

    @singledispatchmethod
    def __call__(self, job: Job, state: ServerState) -> Result:
        """Execute one job.

        Raises:
            FatalClientFailure: if a client fails under `faults.on_error=fail`.
        """
        raise TypeError(f"{type(job).__name__} is not a job")

    @__call__.register
    @trainer_scope()  # both once for all clients of the job
    @spare_normal_kept()
    def _train(self, job: TrainJob, state: ServerState) -> PartialAggregate:
        """Train clients; add updates left to right in float64."""
        layout = self.update_template(state).layout
        chunk = ChunkSum(self.channel.summation(self.aggregator), self.channel, layout, self.data.seed)
        rest = (state, job.exchange, self.vault, self.faults.max_norm, self.reports)

        @without_stop_iteration
        def take(reply: Reply) -> None:
            if failure := reply if isinstance(reply, ClientFailure) else send_update(chunk, *reply, *rest):
                chunk.failures.append(self._raise_if_fatal(failure))

        if self.stacks is None:
            for client in job.clients:
                number = 0
                while self._tries_again(reply := self._train_client(job, state, chunk.spent, client), number):
                    number += 1
                take(reply)
        else:
            rules = [partial(self._train_client, job, state, chunk.spent, client) for client in job.clients]
            alone = partial(self._train_client, job, state, {}) if job.round == job.index == 0 else None
            self.stacks.train(rules, take, self._tries_again, alone)
        return chunk.partial(job.index)

    @__call__.register
    def _exchange(self, job: ExchangeJob, state: ServerState) -> ExchangeResult:
        """Let clients answer the server in an exchange without updates."""
        layout, seed = self.update_template(state).layout, self.data.seed
        result = answer_exchange(self.channel, layout, job, seed, self.faults, self.vault, self.reports.classify)
        for failure in result.failures:
            self._raise_if_fatal(failure)
        return result

    @__call__.register
    def _measure_loss(self, job: LossJob, state: ServerState) -> LossResult:
        """Measure a candidate's loss with retries; planned faults act only in training."""

        def measure() -> float:
            return self.local_trainer(job.round, job.client, {}).loss(self.algorithm.model(state.shared))

        result = answer_loss_query(job.client, measure, self.faults.max_retries, self.reports)
        if result.failure is not None:
            self._raise_if_fatal(result.failure)
        return result

    @__call__.register
    def _evaluate(self, job: EvaluateJob, state: ServerState) -> EvalResult:
        """Evaluate the global model (split) or a client's model (own test set)."""
        return self.reports.evaluated(job.client, lambda: self._evaluation(job, state))

    def _evaluation(self, job: EvaluateJob, state: ServerState) -> EvalResult:
        batches = self.data.split_batches(job.split) if job.client is None else self.data.client_test(job.client)
        if not len(batches):
            return EvalResult(job.split, {}, job.client)
        model = self._model_to_evaluate(job, state)
        metrics = evaluate_split(self.replica, self.trainer_config, model, batches, job.split, self.data)
        return EvalResult(job.split, metrics, job.client)

    def vectorize(self, if_faster: bool = False) -> ClientWorker:
        """Return the same worker, which trains clients together: see `Worker`."""
        return replace(self, stacks=try_stacks(self, if_faster))

    def merge(self, parts: Sequence[PartialAggregate]) -> PartialAggregate:
        """Merge parts as if one worker added all clients left to right."""
        return merge(self.channel.summation(self.aggregator), parts)

    def _model_to_evaluate(self, job: EvaluateJob, state: ServerState) -> Model:
        if job.client is None or self.data.is_pooled:
            return self.algorithm.model(state.shared)
        local = replace(self.local_trainer(job.round, job.client, job.client_state), private=None)  # nobody would count
        return self.algorithm.personal_model(local, state.shared, algorithm_state(job.client_state))

    def _tries_again(self, reply: Reply, number: int) -> bool:
        return isinstance(reply, ClientFailure) and reply.outcome != "planned" and number < self.faults.max_retries

    def _train_client(
        self, job: TrainJob, state: ServerState, spent: dict[int, Groups], client: int, work: LocalWork | None = None
    ) -> Reply:
        """Run a client's rule; `spent` gets its private fits."""
        client_state, budget = job.client_states.get(client, {}), job.budgets.get(client)
        local = self.local_trainer(job.round, client, client_state, budget, work)
        faults = self.faults.active_faults(self.data.seed, job.round, client)
        try:
            if faults:  # they act once, also if the rule runs again
                local.work.measure(partial(begin_faults, faults, job.exchange_number, job.attempt))
            update = self.algorithm.client(local, state.shared, algorithm_state(client_state))
            for fault, generator in faults:
                update = fault.after(update, generator)
        except Exception as error:
            return self.reports.classify(client, error)
        finally:
            if local.private is not None:
                spent[client] = local.private.history.or_longer(spent.get(client, {})).groups()
        problem = self.update_template(state).mismatch(update.groups)
        return ClientFailure(client, "bad_shape", problem) if problem else (update, local)

    def _raise_if_fatal(self, failure: ClientFailure) -> ClientFailure:
        if self.faults.on_error == "fail" and failure.outcome != "planned":
            raise FatalClientFailure(f"client {failure.client}: {failure.outcome}: {failure.reason}")
        return failure

    def update_template(self, state: ServerState) -> UpdateTemplate:
        """Names, shapes and dtypes of this round's updates."""
        if self._template is None or self._template[0] != state.round:
            self._template = (state.round, UpdateTemplate(update_template(self.algorithm, state.shared)))
        return self._template[1]

    def local_trainer(
        self,
        round: int,
        client: int,
        client_state: Groups,
        step_budget: int | None = None,
        work: LocalWork | None = None,
    ) -> LocalTrainer:
        """The local training of a client in a round, counted from 0."""
        size, config = self.data.population.size(client), self.trainer_config
        private = make_private_training(config, self.data, round, client, client_state)
        place = (size, round, client, client_state, step_budget)
        rest = {"guards_weights": self.guards_weights, "private": private, "work": work or SingleWork()}
        return LocalTrainer(self.replica, config, self.data, *place, **rest)

    def dry_run(
        self,
        client: int,
        state: ServerState,
        client_state: Groups,
        steps: int | None,
        callbacks: Sequence[Callback],
        work: LocalWork | None = None,
    ) -> tuple[LocalTrainer, Update]:
        """Run one client's rule and keep nothing: see `Federation.dry_run`."""
        local = self.local_trainer(state.round, client, client_state, work=work)
        config = replace(self.trainer_config, callbacks=lambda: [*self.trainer_config.callbacks(), *callbacks])
        local = replace(local, trainer_config=config if steps is None else replace(config, steps=steps))
        return local, self.algorithm.client(local, state.shared, algorithm_state(client_state))
