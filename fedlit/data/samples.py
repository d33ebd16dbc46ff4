"""Samples in tensors: indexed, moved and prepared a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedlit.core.errors import ConfigError
from fedlit.data.loading import DEFAULT_VAL_FRACTION
from fedlit.data.population import Population
from fedlit.data.protocols import Samples

if TYPE_CHECKING:  # imports Lightning, which takes seconds
    from fedlit.data.datamodule import DataModule

Transform = Callable[[Tensor], Tensor]


class Inputs(Protocol):
    """A tensor of inputs, or an object indexed like one."""

    def __getitem__(self, index: Tensor, /) -> Any: ...

    def index_select(self, dim: int, index: Tensor, /) -> Any:
        """Return the inputs of some samples without the memory of the others."""
        ...

    def to(self, device: torch.device, /) -> Any:
        """Return the inputs on a device."""
        ...


@dataclass(frozen=True)
class Normalise:
    """uint8 images to float32: (x / 255 - mean) / std.

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
        """Return images (n, c, h, w) as float32 of the same shape."""
        factor, shift = self._affine
        if not x.is_cpu or x.dim() != 4 or x.shape[1] != len(factor):
            factor, shift = (part.to(x.device, non_blocking=True) for part in self._affine)
            return torch.addcmul(shift, x.to(torch.float32), factor)
        result = x.to(torch.float32, copy=True)  # on a CPU the product with numbers is a fifth of that with tensors
        for channel, number, one in zip(result.unbind(1), self._factors, shift.unbind(), strict=True):
            torch.add(one, channel, alpha=number, out=channel)
        return result

    @cached_property
    def _factors(self) -> list[float]:
        return self._affine[0].flatten().tolist()


@dataclass(frozen=True)
class TensorSamples:
    """Samples in tensors, in the dtype of their source.

    Args:
        x: inputs, shape (n, ...), or an object that returns them by sample numbers.
        y: targets, shape (n, ...); integers are class labels.
        prepare: function from a batch of inputs to the model's inputs; None for no change.
        augment: random transform of a batch of inputs in training; None for no augmentation.
        owner: the client of each sample, in range(clients), shape (n,); None if the data names no clients.
        clients: number of clients in `owner`.
    """

    x: Inputs
    y: Tensor
    prepare: Transform | None = None
    augment: Transform | None = None
    owner: np.ndarray | None = None
    clients: int = 0

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"TensorSamples({len(self):,} samples)"

    def labels(self, index: np.ndarray | None = None) -> np.ndarray | None:
        """Return the targets of the samples in `index` (None: all)."""
        return (self.y if index is None else self.y[torch.from_numpy(index)]).cpu().numpy()

    def natural(self) -> Population | None:
        """Return the population that `owner` describes."""
        return None if self.owner is None else Population.of(self.owner, self.clients)

    @property
    def is_in_memory(self) -> bool:
        """True if no sample can be unreadable."""
        return isinstance(self.x, Tensor) or getattr(self.x, "is_in_memory", False)

    def select(self, numbers: Tensor) -> tuple[Any, Tensor]:
        """Return inputs and targets of some samples, before `augment` and `prepare`."""
        return _select(self.x, numbers), _select(self.y, numbers)

    def subset(self, index: np.ndarray) -> TensorSamples:
        """Return a copy of the samples in `index`."""
        rows = torch.from_numpy(index)
        owner = None if self.owner is None else self.owner[index]
        return replace(self, x=self.x.index_select(0, rows), y=self.y[rows], owner=owner)

    def to(self, device: torch.device) -> TensorSamples:
        """Return the samples on a device."""
        return self if device == self.y.device else replace(self, x=self.x.to(device), y=self.y.to(device))

    def batches(
        self,
        index: np.ndarray | None,
        size: int | None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> TensorBatches:
        """Return batches of the samples in `index`: see `protocols.Samples`."""
        rows = np.arange(len(self)) if index is None else index
        size = size or max(1, len(rows))
        return TensorBatches(self, rows, size, generator, len(rows) // size if drop_last else -(-len(rows) // size))


def _select(tensor: Any, numbers: Tensor) -> Any:
    if isinstance(tensor, Tensor) and tensor.is_contiguous():  # copies whole samples, and `[numbers]` number by number
        return tensor.index_select(0, numbers)
    return tensor[numbers]


class TensorBatches:
    """Batches (inputs, targets); a generator shuffles and augments each pass."""

    def __init__(
        self, samples: TensorSamples, rows: np.ndarray, size: int, generator: torch.Generator | None, count: int
    ) -> None:
        self.samples, self.rows, self.size, self.generator, self.count = samples, rows, size, generator, count

    def __len__(self) -> int:
        return self.count

    def order(self) -> np.ndarray:
        """Return the sample numbers of a new pass, in their order."""
        rows = self.rows
        if self.generator is not None:
            rows = rows[torch.randperm(len(rows), generator=self.generator).numpy()]
        return rows[: self.count * self.size]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        samples = self.samples
        numbers = torch.from_numpy(self.order()).to(samples.y.device, non_blocking=True)
        for batch in numbers.split(self.size) if len(numbers) else ():
            x, y = samples.select(batch)
            if self.generator is not None and samples.augment is not None:
                x = samples.augment(x)
            yield (x if samples.prepare is None else samples.prepare(x)), y


@dataclass(frozen=True)
class ClientTestSet:
    """The own test sets of all clients.

    Args:
        samples: test samples of all clients, among others.
        population: the clients and their test samples.
    """

    samples: Samples
    population: Population


@dataclass(frozen=True)
class Data:
    """Training and test set, with the facts that a model needs.

    Args:
        name: name for messages.
        train: samples to partition among the clients, without those held out for validation.
        test: samples for the reported metrics; None if there are none.
        shape: shape of one input of the model; empty if it is unknown.
        classes: names of the classes, in the order of their labels; empty if labels are not classes, as in regression.
        val: samples held out for validation; None if there are none.
        client_tests: test samples of the clients that the data itself names; None if there are none.
        datamodule: the user's LightningDataModule, whose hooks of batches a Trainer calls; None without one.
    """

    name: str
    train: Samples
    test: Samples | None
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    val: Samples | None = None
    client_tests: ClientTestSet | None = None
    datamodule: DataModule | None = None

    def hold_out(self, fraction: float | None, generator: np.random.Generator) -> Data:
        """Hold out a random part of the training set for validation.

        Args:
            fraction: part of the training set, in [0, 1); the number of samples is rounded down. None is a tenth, or 0 if the
                data brings its own validation set.
            generator: source of the draw.

        Raises:
            ConfigError: if `fraction` is above 0 and the data brings its own validation set.
        """
        if self.val is not None and fraction:
            why = f"cannot be set: {self.name} brings its own validation set"
            raise ConfigError("val_fraction", fraction, why, "leave it out, or set it to 0")
        fraction = fraction if fraction is not None else DEFAULT_VAL_FRACTION if self.val is None else 0.0
        count = int(fraction * len(self.train))
        if count == 0:
            return self
        order = generator.permutation(len(self.train))
        val, train = np.sort(order[:count]), np.sort(order[count:])
        return replace(self, train=self.train.subset(train), val=self.train.subset(val))
