"""Does jobs: trains a chunk of clients and adds up their updates, or evaluates the model on a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

import torch

from fedlit.data.holdings import Holdings
from fedlit.local import Bench, LocalTraining, Recipe, evaluate
from fedlit.messages import Chunk, Failure, Fit, Job, Partial, Scores, State
from fedlit.protocols import Algorithm
from fedlit.tally import summed
from fedlit.tensors import Groups
from fedlit.watch import without_kept
from fedlit.wire import Layout, pack, unpack


@dataclass
class ClientWorker:
    """Everything that a job needs besides the state.

    Args:
        algorithm: whose client rule is run.
        bench: the module.
        recipe: how a Trainer is made.
        holdings: samples of the clients and of the server.
    """

    algorithm: Algorithm
    bench: Bench
    recipe: Recipe
    holdings: Holdings

    @property
    def device(self) -> torch.device:
        """Where its Trainers train."""
        return self.recipe.trainer().strategy.root_device

    def placed(self, device: torch.device) -> ClientWorker:
        """The same worker with its samples on a device."""
        return replace(self, holdings=self.holdings.to(device))

    def __call__(self, job: Job, state: State) -> Partial | Scores:
        """The chunk's sum, or the split's scores."""
        if isinstance(job, Chunk):
            return self._chunk(job, state)
        batches = self.holdings.split(job.split) if job.client is None else self.holdings.own(job.client)
        model = self.algorithm.model(state.shared)
        scores = (
            evaluate(self.bench, self.recipe, model, batches, job.split, self.holdings.seed) if len(batches) else {}
        )
        return Scores(job.split, scores, job.client)

    def _chunk(self, chunk: Chunk, state: State) -> Partial:
        """Runs the clients one after the other and adds up what they send, left to right, in float64."""
        layout: Layout | None = None
        total = torch.zeros(0, dtype=torch.float64)
        weights, bytes_up, failures, fits = 0.0, 0, [], []
        memories: dict[int, Groups] = {}
        for client in chunk.clients:
            local = self.local(chunk.round, client, chunk.memories.get(client, {}))
            update = self.algorithm.client(local, state.shared, without_kept(local.memory))
            layout = layout or Layout.of(update.send)
            message = pack(layout, update.send, update.weight)
            bytes_up += len(message)
            vector, weight = unpack(message)
            if odd := not_finite(vector, weight):
                failures.append(Failure(client, "not_finite", odd))
                continue
            scaled = vector.double().mul_(weight)
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
        )

    def local(self, round: int, client: int, memory: Groups) -> LocalTraining:
        """The client's hands in a round, and what it remembers."""
        examples = self.holdings.population.size(client)
        return LocalTraining(self.bench, self.recipe, self.holdings, examples, round, client, memory)


def not_finite(vector: torch.Tensor, weight: float) -> str:
    """What is not a number in an update, or an empty string. The sum alone is looked at first: it shows any NaN or infinity."""
    if not 0 <= weight < float("inf"):
        return f"weight {weight}"
    if bool(vector.sum().isfinite()) or bool(vector.isfinite().all()):
        return ""
    return f"{int((~vector.isfinite()).sum())} of {len(vector)} numbers are NaN or infinite"


def _metrics(fits: Iterable[Fit]) -> dict[str, tuple[float, float]]:
    """For each logged name (sum of examples * value, sum of examples)."""
    parts = ({name: (fit.examples * value, fit.examples) for name, value in fit.metrics.items()} for fit in fits)
    return reduce(summed, parts, {})
