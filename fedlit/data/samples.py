"""Samples held as tensors: indexed, moved and prepared a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fedlit.core.errors import ConfigError, did_you_mean, raise_errors, require, require_at_least
from fedlit.core.facts import FederationFacts
from fedlit.data.population import Population
from fedlit.data.protocols import Samples

Transform = Callable[[Tensor], Tensor]

DEFAULT_VAL_FRACTION = 0.1
"""Part of the training set for validation where nobody says how much."""


class Inputs(Protocol):
    """A tensor of inputs, or what gives a batch of them for a tensor of sample numbers."""

    def __getitem__(self, index: Tensor, /) -> Any: ...

    def index_select(self, dim: int, index: Tensor, /) -> Any:
        """The inputs of some samples, in a form that is no larger than need be."""
        ...

    def to(self, device: torch.device, /) -> Any:
        """The inputs on a device."""
        ...


@dataclass(frozen=True)
class Normalise:
    """uint8 images to float32: (x / 255 - mean) / std, a channel at a time.

    Args:
        mean: one value for each channel, in [0, 1].
        std: one value for each channel, > 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (self.mean, self.std))
        return (1 / (255 * std)).float(), (-mean / std).float()

    def __call__(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) as float32 of the same shape."""
        factor, shift = (part.to(x.device, non_blocking=True) for part in self._affine)
        return torch.addcmul(shift, x.to(torch.float32), factor)


@dataclass(frozen=True)
class TensorSamples:
    """Samples in tensors, in the dtype that the source has them in.

    Args:
        x: inputs, shape (n, ...), or what gives them for an index.
        y: targets, shape (n, ...); integers are class labels.
        prepare: makes a batch of inputs what the model takes; None leaves them.
        augment: a random transform on a batch of inputs while training; None for none.
        owner: the client of each sample, where the data says so, in range(clients), shape (n,).
        clients: number of clients that `owner` is about.
    """

    x: Inputs
    y: Tensor
    prepare: Transform | None = None
    augment: Transform | None = None
    owner: np.ndarray | None = None
    clients: int = 0

    def __len__(self) -> int:
        return len(self.y)

    def labels(self, index: np.ndarray | None = None) -> np.ndarray | None:
        """The targets as an array."""
        return (self.y if index is None else self.y[torch.from_numpy(index)]).cpu().numpy()

    def natural(self) -> Population | None:
        """The population that `owner` describes."""
        return None if self.owner is None else Population.of(self.owner, self.clients)

    def subset(self, index: np.ndarray) -> TensorSamples:
        """The samples in `index`, copied."""
        rows = torch.from_numpy(index)
        owner = None if self.owner is None else self.owner[index]
        return replace(self, x=self.x.index_select(0, rows), y=self.y[rows], owner=owner)

    def to(self, device: torch.device) -> TensorSamples:
        """The samples on a device."""
        return self if device == self.y.device else replace(self, x=self.x.to(device), y=self.y.to(device))

    def batches(
        self,
        index: np.ndarray | None,
        size: int | None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> TensorBatches:
        """Batches of the samples in `index`: see `protocols.Samples`."""
        rows = torch.arange(len(self)) if index is None else torch.from_numpy(index)
        size = size or max(1, len(rows))
        return TensorBatches(self, rows, size, generator, len(rows) // size if drop_last else -(-len(rows) // size))


class TensorBatches:
    """Batches (inputs, targets); each pass draws a new order from the generator, or keeps the order without one."""

    def __init__(
        self, samples: TensorSamples, rows: Tensor, size: int, generator: torch.Generator | None, count: int
    ) -> None:
        self.samples, self.rows, self.size, self.generator, self.count = samples, rows, size, generator, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        samples, rows = self.samples, self.rows
        if self.generator is not None:
            rows = rows[torch.randperm(len(rows), generator=self.generator)]
        rows = rows[: self.count * self.size].to(samples.y.device)
        for batch in rows.split(self.size) if len(rows) else ():
            x = samples.x[batch]
            if self.generator is not None and samples.augment is not None:
                x = samples.augment(x)
            yield (x if samples.prepare is None else samples.prepare(x)), samples.y[batch]


@dataclass(frozen=True)
class ClientTestSet:
    """Samples that belong to clients: what each client's own test set is."""

    samples: Samples
    population: Population


@dataclass(frozen=True)
class Data:
    """A training and a test set, and what a model has to know of them.

    Args:
        name: for people.
        train: samples that are split among the clients, after a part was held out for validation.
        test: samples that are only reported; None where there are none.
        shape: of one input, as the model takes it; empty where that is not known.
        classes: names of the classes, in the order of their labels; empty where labels are not classes.
        val: what was held out for validation; None for nothing.
        own_test: test samples of each client that the data itself names; None where there are none.
    """

    name: str
    train: Samples
    test: Samples | None
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    val: Samples | None = None
    client_tests: ClientTestSet | None = None

    def hold_out(self, fraction: float | None, generator: np.random.Generator) -> Data:
        """The data with a random part of the training set, rounded down, held out for validation; with None a tenth, unless
        the data brings a validation set."""
        if self.val is not None and fraction:
            raise ConfigError(
                "val_fraction", fraction, f"{self.name} brings its own validation set", "leave it out, or take 0"
            )
        fraction = fraction if fraction is not None else DEFAULT_VAL_FRACTION if self.val is None else 0.0
        count = int(fraction * len(self.train))
        if count == 0:
            return self
        order = generator.permutation(len(self.train))
        held, kept = np.sort(order[:count]), np.sort(order[count:])
        return replace(self, train=self.train.subset(kept), val=self.train.subset(held))


@dataclass(frozen=True)
class Loading:
    """How samples become batches.

    Args:
        batch_size: samples in a local batch, or `full`: the whole shard, which makes FedAvg FedSGD.
        eval_batch_size: samples in a batch while evaluating, which changes time and memory only.
        val_fraction: part of the training set held out for validation before the rest is split among clients, in [0, 1);
            None for a tenth, or for nothing of data that bring a validation set.
        client_test_fraction: part of each client's own shard, rounded down, held out as its own test set, in [0, 1).
        drop_last: leave out a last batch that is not full.
        num_workers: processes that load the samples of a map-style dataset; tensors need none.
    """

    batch_size: int | Literal["full"] = 32
    eval_batch_size: int = 500
    val_fraction: float | None = None
    client_test_fraction: float = 0.0
    drop_last: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        size, val, own = self.batch_size, self.val_fraction, self.client_test_fraction
        some = size == "full" if isinstance(size, str) else size >= 1
        share, remedy = "must be at least 0 and below 1", "0 holds nothing out: then the last round counts"
        raise_errors(
            require(
                some, "batch_size", size, "must be a whole number of at least 1, or full", did_you_mean(size, ["full"])
            ),
            require_at_least("num_workers", self.num_workers, 0),
            require_at_least("eval_batch_size", self.eval_batch_size),
            require(0 <= (val or 0) < 1, "val_fraction", val, share, remedy),
            require(0 <= own < 1, "client_test_fraction", own, share),
        )

    def check(self, facts: FederationFacts) -> Iterator[ConfigError]:
        """Batches that can be filled, and a validation split that has everything."""
        size, largest = self.local_batch_size, int(facts.sizes.max(initial=0))
        if self.drop_last and size is not None and size > largest:
            why = f"is more than the {largest} samples of the largest client, and data.drop_last leaves out what is not full"
            yield ConfigError("data.batch_size", size, why, "take smaller batches, or data.drop_last=false")
        fraction = DEFAULT_VAL_FRACTION if self.val_fraction is None else self.val_fraction
        if fraction > 0 and "val" not in facts.splits:
            why = "holds out less than one sample: the last round counts"
            yield ConfigError("data.val_fraction", fraction, why, "take more", warning=True)
        if facts.val_counts is not None and not facts.val_counts.all():
            names = [facts.classes[label] for label in np.flatnonzero(facts.val_counts == 0)]
            why = f"leaves validation without class {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            remedy = "take more, or judge the best round with care"
            given = self.val_fraction or ""  # else the data may have brought them
            yield ConfigError("data.val_fraction" if given else "data", given, why, remedy, warning=True)

    @property
    def local_batch_size(self) -> int | None:
        """Samples in a local batch; None for the whole shard."""
        return None if isinstance(self.batch_size, str) else self.batch_size
