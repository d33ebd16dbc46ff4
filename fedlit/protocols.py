"""The joints of the house: what an algorithm, a sampler, a data set, an executor and an observer look like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from fedlit.messages import Contrast, Fit, Job, Mean, Model, Result, State, Term, Update
from fedlit.pool import Pool
from fedlit.record import Round
from fedlit.tensors import Groups, Tensors

if TYPE_CHECKING:
    from fedlit.data.population import Population

Shared = Mapping[str, Model | Tensors]
Execute = Callable[[Iterable[Job], State], Iterator[Result]]


class Local(Protocol):
    """What a client rule is handed: local training on this client's shard."""

    @property
    def examples(self) -> int:
        """Samples in the client's shard."""
        ...

    def fit(
        self,
        model: Model,
        *terms: Term | Contrast,
        only: Collection[str] | None = None,
        epochs: int | None = None,
        key: int = 0,
    ) -> Fit:
        """Trains from `model` with the client's own optimizer.

        Args:
            model: where training begins.
            terms: each is added to every gradient, or to every loss.
            only: names of the parameters that are trained; None for all.
            epochs: passes over the shard; None for what the schedule says.
            key: tells a further fit in the same round from the first: it has random numbers of its own, and what its module
                logs is not in the record.
        """
        ...

    def loss(self, model: Model) -> float:
        """Example-weighted mean of `training_step` over the shard, in eval mode, without augmentation."""
        ...

    def gradient(self, model: Model) -> Tensors:
        """Gradient of `loss` for each parameter."""
        ...


class Algorithm(Protocol):
    """A federated algorithm, the client's half and the server's in one place. Values in, values out.

    It may have more: `check(facts)`, its rules about other parts; `settled(module, initial)`, itself as it is for a module;
    `personal(local, shared, memory)`, the model that is evaluated on a client's own test samples; `metrics(state)`, figures
    for the record; and `pooled`, true if it trains on all samples in one place.
    """

    def init(self, model: Model) -> State:
        """The state before round 1."""
        ...

    def client(self, local: Local, shared: Shared, memory: Groups) -> Update:
        """What a client does with what it was sent and what it remembers: an empty mapping the first time."""
        ...

    def server(self, state: State, mean: Mean) -> State:
        """What the server does with the weighted mean of the updates."""
        ...

    def model(self, shared: Shared) -> Model:
        """The model that is evaluated and kept."""
        ...


class Worker(Protocol):
    """Does one job, given what the clients are sent."""

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        ...

    def placed(self, device: torch.device) -> Worker:
        """The same worker with its samples on a device."""
        ...

    def __call__(self, job: Job, state: State) -> Result: ...


class Executor(Protocol):
    """Where jobs are done. Results come in the order of the jobs, and do not depend on the executor."""

    def open(self, worker: Worker, rounds: int) -> AbstractContextManager[Execute]:
        """A pool for the whole run; `rounds` are still to come, for an executor that weighs its start against the work."""
        ...


class Sampler(Protocol):
    """Who takes part in a round.

    It may have more: `check(facts)`, its rules about other parts; `metrics(pool)`, figures for the record; `most(clients)`, how
    large a cohort can be where that is not the schedule's size; and `by_examples`, true if it is likelier to draw clients that
    have more examples.
    """

    def __call__(self, pool: Pool, generator: np.random.Generator) -> np.ndarray:
        """Different ids out of range(len(pool)), in any order, possibly none; `generator` is the round's own."""
        ...


class Partitioner(Protocol):
    """Which client owns each sample."""

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """The clients and their shards: every sample has exactly one owner.

        Raises:
            Mistake: if the samples do not have what the partition goes by.
        """
        ...


class Batches(Protocol):
    """What a Trainer iterates over: batches as `training_step` takes them, `len` batches an epoch."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Samples(Protocol):
    """Samples by index, with a label each."""

    def __len__(self) -> int: ...

    def labels(self, index: np.ndarray | None = None) -> np.ndarray | None:
        """One for each sample of the index (None: all), shape (n,): integers are classes. None where there are none."""
        ...

    def natural(self) -> Population | None:
        """Whose the samples are, where the data says so."""
        ...

    def subset(self, index: np.ndarray) -> Samples:
        """The samples in `index`, in that order."""
        ...

    def batches(
        self,
        index: np.ndarray | None,
        size: int | None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """Batches of the samples in `index` (None: all) with `size` samples each (None: all in one); shuffled and
        augmented if there is a generator, in their order and as they are if there is none. `drop_last` leaves out a last
        batch that is not full."""
        ...

    def to(self, device: torch.device) -> Samples:
        """The samples where the model is, if they fit there."""
        ...


class Observer(Protocol):
    """Sees every round; never changes the run. One that raises is told no more."""

    def start(self, run: Any) -> None: ...

    def round(self, record: Round) -> None: ...

    def end(self, summary: Mapping[str, Any]) -> None:
        """The run has come to its end."""
        ...

    def close(self) -> None:
        """Always told last, also of a run that was stopped."""
        ...
