"""Does jobs: trains a chunk of clients and adds up their updates, asks one for its loss, or evaluates the model on a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from math import isfinite, nan

import torch

from fedlit.aggregation.mean import summed
from fedlit.aggregation.packing import pack, unpack
from fedlit.algorithms.algorithm import Algorithm, own_model
from fedlit.client.callbacks import without_kept
from fedlit.client.failures import failure_of
from fedlit.client.trainer import Bench, LocalTraining, Recipe, evaluate
from fedlit.core.messages import (
    ASKED,
    Chunk,
    Evaluation,
    Failure,
    Fit,
    Job,
    Loss,
    Model,
    Partial,
    Probe,
    Result,
    Scores,
    State,
    Update,
)
from fedlit.core.tensors import Groups, Layout
from fedlit.data.client_data import Holdings
from fedlit.simulation.faults import Faults


class ClientFailed(RuntimeError):
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
    bench: Bench
    recipe: Recipe
    holdings: Holdings
    faults: Faults = field(default_factory=Faults)
    _due: tuple[int, Groups] | None = None  # the round's updates: names, shapes, dtypes

    @property
    def device(self) -> torch.device:
        """Where its Trainers train."""
        return self.recipe.trainer().strategy.root_device

    def placed(self, device: torch.device) -> ClientWorker:
        """The same worker with its samples on a device."""
        return replace(self, holdings=self.holdings.to(device))

    def __call__(self, job: Job, state: State) -> Result:
        """The chunk's sum, the candidate's loss, or the split's scores.

        Raises:
            ClientFailed: if a client fails under `faults.on_error=fail`.
        """
        if isinstance(job, Chunk):
            return self._chunk(job, state)
        if isinstance(job, Probe):
            return self._probe(job, state)
        batches = self.holdings.split(job.split) if job.client is None else self.holdings.own(job.client)
        if not len(batches):
            return Scores(job.split, {}, job.client)
        model = self._evaluated(job, state)
        scores = evaluate(self.bench, self.recipe, model, batches, job.split, self.holdings.seed)
        return Scores(job.split, scores, job.client)

    def _evaluated(self, job: Evaluation, state: State) -> Model:
        """The global model, or the client's own where the algorithm has such."""
        if job.client is None or self.holdings.pooled:
            return self.algorithm.model(state.shared)
        local = self.local(job.round, job.client, job.memory)
        return own_model(self.algorithm, local, state.shared, without_kept(job.memory))

    def _chunk(self, chunk: Chunk, state: State) -> Partial:
        """Runs the clients one after the other and adds up what they send, left to right, in float64."""
        layout = Layout.of(self.expected(state))
        total = torch.zeros(0, dtype=torch.float64)
        weights, square, bytes_up, failures, fits = 0.0, 0.0, 0, [], []
        parameters = layout.span("parameters")
        memories: dict[int, Groups] = {}
        for client in chunk.clients:
            reply = self._reply(chunk, client, state)
            if isinstance(reply, Failure):
                failures.append(reply)
                continue
            update, local = reply
            message = pack(layout, update.send, update.weight)
            bytes_up += len(message) if layout.size else 0  # who shares nothing sends nothing
            vector, weight = unpack(message)
            if odd := not_finite(vector, weight, self.faults.max_norm):
                failures.append(self._failed(Failure(client, "not_finite", odd)))
                continue
            exact = vector.double()
            square += weight * float(exact[parameters].dot(exact[parameters]))
            scaled = exact.mul_(weight)
            total = total.add_(scaled) if memories else scaled
            weights += weight
            memories[client] = {**update.remember, **local.kept}
            fits += local.fits
        return Partial(
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

    def _reply(self, chunk: Chunk, client: int, state: State) -> tuple[Update, LocalTraining] | Failure:
        """What a client answers, as often as it is asked."""
        reply = self._try(chunk, client, state)
        for _ in range(self._retries):
            if not isinstance(reply, Failure) or reply.outcome == "planned":
                break
            reply = self._try(chunk, client, state)
        return self._failed(reply) if isinstance(reply, Failure) else reply

    def _try(self, chunk: Chunk, client: int, state: State) -> tuple[Update, LocalTraining] | Failure:
        """One attempt."""
        local = self.local(chunk.round, client, chunk.memories.get(client, {}), chunk.budgets.get(client))
        struck = self.faults.striking(self.holdings.seed, chunk.round, client)
        try:
            for fault, _ in struck:
                fault.before(chunk.attempt)
            update = self.algorithm.client(local, state.shared, without_kept(local.memory))
            for fault, generator in struck:
                update = fault.after(update, generator)
        except Exception as error:
            return failure_of(client, error)
        odd = unlike(update.send, self.expected(state))
        return Failure(client, "bad_shape", odd) if odd else (update, local)

    def _probe(self, probe: Probe, state: State) -> Loss:
        """What a candidate answers, as often as it is asked. Planned faults are of training, and do not strike here."""
        answer = self._ask(probe, state)
        for _ in range(self._retries):
            answer = answer if answer.failure is None else self._ask(probe, state)
        if answer.failure is not None:
            self._failed(answer.failure)
        return answer

    def _ask(self, probe: Probe, state: State) -> Loss:
        """One attempt."""
        try:
            loss = self.local(probe.round, probe.client, {}).loss(self.algorithm.model(state.shared))
        except Exception as error:
            failed = failure_of(probe.client, error)
        else:
            if isfinite(loss):
                return Loss(probe.client, loss)
            failed = Failure(probe.client, "not_finite", f"loss {loss}")
        return Loss(probe.client, nan, replace(failed, reason=f"{failed.reason}, {ASKED}"))

    @property
    def _retries(self) -> int:
        return self.faults.retries if self.faults.on_error == "retry" else 0

    def _failed(self, failure: Failure) -> Failure:
        if self.faults.on_error == "fail" and failure.outcome != "planned":
            raise ClientFailed(f"client {failure.client}: {failure.outcome}: {failure.reason}")
        return failure

    def expected(self, state: State) -> Groups:
        """What an update has to look like in this round: the one of a client without a sample, which takes no step."""
        if self._due is None or self._due[0] != state.round:
            still = LocalTraining(self.bench, self.recipe, self.holdings, examples=0, round=state.round, client=0)
            self._due = (state.round, self.algorithm.client(still, state.shared, {}).send)
        return self._due[1]

    def local(self, round: int, client: int, memory: Groups, budget: int | None = None) -> LocalTraining:
        """The client's hands in a round, what it remembers, and the steps after which it is cut short."""
        examples = self.holdings.population.size(client)
        return LocalTraining(self.bench, self.recipe, self.holdings, examples, round, client, memory, budget)


def unlike(send: Groups, expected: Groups) -> str:
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


def not_finite(vector: torch.Tensor, weight: float, max_norm: float | None = None) -> str:
    """What is not a number in an update, or too large a one, or an empty string. The sum alone is looked at first: it shows
    any NaN or infinity."""
    if not 0 <= weight < float("inf"):
        return f"weight {weight}"
    if not bool(vector.sum().isfinite()) and not bool(vector.isfinite().all()):
        return f"{int((~vector.isfinite()).sum())} of {len(vector)} numbers are NaN or infinite"
    if max_norm is not None and (norm := float(vector.double().norm())) > max_norm:
        return f"norm {norm:.3g}, and faults.max_norm is {max_norm:g}"
    return ""


def _metrics(fits: Iterable[Fit]) -> dict[str, tuple[float, float]]:
    """For each logged name (sum of examples * value, sum of examples)."""
    parts = ({name: (fit.examples * value, fit.examples) for name, value in fit.metrics.items()} for fit in fits)
    return reduce(summed, parts, {})
