"""Does jobs: trains a chunk of clients and adds up their updates, asks one for its loss, or evaluates the model on a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from math import isfinite, nan

import torch

from fedlit.aggregation.mean import add_weighted
from fedlit.aggregation.packing import pack_update, unpack_update
from fedlit.algorithms.algorithm import Algorithm, personal_model
from fedlit.client.callbacks import algorithm_state
from fedlit.client.failures import classify_failure
from fedlit.client.trainer import LocalTrainer, ModuleReplica, TrainerConfig, evaluate_split
from fedlit.core.messages import (
    LOSS_QUERY,
    ClientFailure,
    EvalResult,
    EvaluateJob,
    FitResult,
    Job,
    LossJob,
    LossResult,
    Model,
    PartialAggregate,
    Result,
    ServerState,
    TrainJob,
    Update,
)
from fedlit.core.tensors import Groups, Layout
from fedlit.data.client_data import ClientData
from fedlit.simulation.faults import FailurePolicy


class FatalClientFailure(RuntimeError):
    """A client failed, and `faults.on_error` says that this ends the run."""


@dataclass
class ClientWorker:
    """Everything that a job needs besides the state.

    Args:
        algorithm: whose client rule is run.
        bench: the module.
        recipe: how a Trainer is made.
        holdings: samples of the clients and of the server.
        faults: what is done about clients that fail.
    """

    algorithm: Algorithm
    replica: ModuleReplica
    trainer_config: TrainerConfig
    data: ClientData
    faults: FailurePolicy = field(default_factory=FailurePolicy)
    _due: tuple[int, Groups] | None = None  # the round's updates: names, shapes, dtypes

    @property
    def device(self) -> torch.device:
        """Where its Trainers train."""
        return self.trainer_config.make_trainer().strategy.root_device

    def on_device(self, device: torch.device) -> ClientWorker:
        """The same worker with its samples on a device."""
        return replace(self, data=self.data.to(device))

    def __call__(self, job: Job, state: ServerState) -> Result:
        """The chunk's sum, the candidate's loss, or the split's scores.

        Raises:
            ClientFailed: if a client fails under `faults.on_error=fail`.
        """
        if isinstance(job, TrainJob):
            return self._chunk(job, state)
        if isinstance(job, LossJob):
            return self._probe(job, state)
        batches = self.data.split_batches(job.split) if job.client is None else self.data.client_test(job.client)
        if not len(batches):
            return EvalResult(job.split, {}, job.client)
        model = self._evaluated(job, state)
        scores = evaluate_split(self.replica, self.trainer_config, model, batches, job.split, self.data.seed)
        return EvalResult(job.split, scores, job.client)

    def _evaluated(self, job: EvaluateJob, state: ServerState) -> Model:
        """The global model, or the client's own where the algorithm has such."""
        if job.client is None or self.data.is_pooled:
            return self.algorithm.model(state.shared)
        local = self.local(job.round, job.client, job.client_state)
        return personal_model(self.algorithm, local, state.shared, algorithm_state(job.client_state))

    def _chunk(self, chunk: TrainJob, state: ServerState) -> PartialAggregate:
        """Runs the clients one after the other and adds up what they send, left to right, in float64."""
        layout = Layout.of(self.update_template(state))
        total = torch.zeros(0, dtype=torch.float64)
        weights, square, bytes_up, failures, fits = 0.0, 0.0, 0, [], []
        parameters = layout.span("parameters")
        memories: dict[int, Groups] = {}
        for client in chunk.clients:
            reply = self._reply(chunk, client, state)
            if isinstance(reply, ClientFailure):
                failures.append(reply)
                continue
            update, local = reply
            message = pack_update(layout, update.groups, update.weight)
            bytes_up += len(message) if layout.size else 0  # who shares nothing sends nothing
            vector, weight = unpack_update(message)
            if odd := invalid_values(vector, weight, self.faults.max_norm):
                failures.append(self._failed(ClientFailure(client, "not_finite", odd)))
                continue
            exact = vector.double()
            square += weight * float(exact[parameters].dot(exact[parameters]))
            scaled = exact.mul_(weight)
            total = total.add_(scaled) if memories else scaled
            weights += weight
            memories[client] = {**update.client_state, **local.optimizer_state}
            fits += local.results
        return PartialAggregate(
            chunk.index,
            layout if memories else None,
            total if memories else None,
            weights,
            tuple(memories),
            tuple(failures),
            _metrics(fits),
            bytes_up,
            sum(fit.steps for fit in fits),
            memories,
            square,
        )

    def _reply(self, chunk: TrainJob, client: int, state: ServerState) -> tuple[Update, LocalTrainer] | ClientFailure:
        """What a client answers, as often as it is asked."""
        reply = self._try(chunk, client, state)
        for _ in range(self._retries):
            if not isinstance(reply, ClientFailure) or reply.outcome == "planned":
                break
            reply = self._try(chunk, client, state)
        return self._failed(reply) if isinstance(reply, ClientFailure) else reply

    def _try(self, chunk: TrainJob, client: int, state: ServerState) -> tuple[Update, LocalTrainer] | ClientFailure:
        """One attempt."""
        local = self.local(chunk.round, client, chunk.client_states.get(client, {}), chunk.budgets.get(client))
        struck = self.faults.active_faults(self.data.seed, chunk.round, client)
        try:
            for fault, _ in struck:
                fault.before(chunk.attempt)
            update = self.algorithm.client(local, state.shared, algorithm_state(local.client_state))
            for fault, generator in struck:
                update = fault.after(update, generator)
        except Exception as error:
            return classify_failure(client, error)
        odd = layout_mismatch(update.groups, self.update_template(state))
        return ClientFailure(client, "bad_shape", odd) if odd else (update, local)

    def _probe(self, probe: LossJob, state: ServerState) -> LossResult:
        """What a candidate answers, as often as it is asked. Planned faults are of training, and do not strike here."""
        answer = self._ask(probe, state)
        for _ in range(self._retries):
            answer = answer if answer.failure is None else self._ask(probe, state)
        if answer.failure is not None:
            self._failed(answer.failure)
        return answer

    def _ask(self, probe: LossJob, state: ServerState) -> LossResult:
        """One attempt."""
        try:
            loss = self.local(probe.round, probe.client, {}).loss(self.algorithm.model(state.shared))
        except Exception as error:
            failed = classify_failure(probe.client, error)
        else:
            if isfinite(loss):
                return LossResult(probe.client, loss)
            failed = ClientFailure(probe.client, "not_finite", f"loss {loss}")
        return LossResult(probe.client, nan, replace(failed, reason=f"{failed.reason}, {LOSS_QUERY}"))

    @property
    def _retries(self) -> int:
        return self.faults.retries if self.faults.on_error == "retry" else 0

    def _failed(self, failure: ClientFailure) -> ClientFailure:
        if self.faults.on_error == "fail" and failure.outcome != "planned":
            raise FatalClientFailure(f"client {failure.client}: {failure.outcome}: {failure.reason}")
        return failure

    def update_template(self, state: ServerState) -> Groups:
        """What an update has to look like in this round: the one of a client without a sample, which takes no step."""
        if self._due is None or self._due[0] != state.round:
            still = LocalTrainer(self.replica, self.trainer_config, self.data, examples=0, round=state.round, client=0)
            self._due = (state.round, self.algorithm.client(still, state.shared, {}).groups)
        return self._due[1]

    def local(self, round: int, client: int, memory: Groups, budget: int | None = None) -> LocalTrainer:
        """The client's hands in a round, what it remembers, and the steps after which it is cut short."""
        examples = self.data.population.size(client)
        return LocalTrainer(self.replica, self.trainer_config, self.data, examples, round, client, memory, budget)


def layout_mismatch(send: Groups, expected: Groups) -> str:
    """In what an update's names, shapes or dtypes are not those that are expected; an empty string if in nothing."""
    given, wanted = (
        {
            f"{group}/{name}": (tuple(t.shape), t.dtype)
            for group, tensors in groups.items()
            for name, t in tensors.items()
        }
        for groups in (send, expected)
    )
    odd = [name for name in {**wanted, **given} if given.get(name) != wanted.get(name)]
    told = [f"{name} {_looks(given.get(name))}, not {_looks(wanted.get(name))}" for name in odd[:3]]
    return "; ".join(told) + (f"; and {len(odd) - 3} more" if len(odd) > 3 else "")


def _looks(what: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing" if what is None else f"{str(what[1]).removeprefix('torch.')} {list(what[0])}"


def invalid_values(vector: torch.Tensor, weight: float, max_norm: float | None = None) -> str:
    """What is not a number in an update, or too large a one, or an empty string. The sum alone is looked at first: it shows
    any NaN or infinity."""
    if not 0 <= weight < float("inf"):
        return f"weight {weight}"
    if not bool(vector.sum().isfinite()) and not bool(vector.isfinite().all()):
        return f"{int((~vector.isfinite()).sum())} of {len(vector)} numbers are NaN or infinite"
    if max_norm is not None and (norm := float(vector.double().norm())) > max_norm:
        return f"norm {norm:.3g}, and faults.max_norm is {max_norm:g}"
    return ""


def _metrics(fits: Iterable[FitResult]) -> dict[str, tuple[float, float]]:
    """For each logged name (sum of examples * value, sum of examples)."""
    parts = ({name: (fit.examples * value, fit.examples) for name, value in fit.metrics.items()} for fit in fits)
    return reduce(add_weighted, parts, {})
