"""The interfaces of data: partitioners, samples and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from fedlit.core.errors import ConfigError
from fedlit.data.population import Population

if TYPE_CHECKING:
    import torch


class Partitioner(ABC):
    """Assignment of every sample to one client."""

    @property
    def declared_clients(self) -> int | None:
        """Number of clients that the partitioner makes; None if the data decides."""
        return None

    @property
    def divides_classes(self) -> bool:
        """True if the partitioner needs labels that are classes."""
        return False

    @abstractmethod
    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        """Return the clients and their shards.

        Args:
            samples: the training samples of all clients. Every sample gets exactly one owner.
            generator: source of every random draw.

        Raises:
            ConfigError: if the samples lack the labels or owners that the partition needs.
        """


PartitionFunction = Callable[["Samples", np.random.Generator], Population]
"""A function with the arguments and the result of `Partitioner.__call__`."""


@dataclass(frozen=True)
class FunctionPartitioner(Partitioner):
    """A partitioner that calls a function of the user.

    Args:
        function: function that returns the population.
    """

    function: PartitionFunction

    def __call__(self, samples: Samples, generator: np.random.Generator) -> Population:
        return self.function(samples, generator)


def as_partitioner(partition: object) -> Partitioner:
    """Return a partitioner as it is, and any other callable wrapped.

    Raises:
        ConfigError: if the object is not callable.
    """
    if isinstance(partition, Partitioner):
        return partition
    if not callable(partition):
        hint = "give a subclass of fedlit.data.Partitioner, or a function (samples, generator) -> Population"
        raise ConfigError("_target_", type(partition).__name__, "is not callable, so it cannot be a partitioner", hint)
    return FunctionPartitioner(cast(PartitionFunction, partition))


class Batches(Protocol):
    """Batches of one epoch, each in the form that `training_step` takes."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Samples(Protocol):
    """Samples by index, with a label each."""

    def __len__(self) -> int: ...

    def labels(self, index: np.ndarray | None = None) -> np.ndarray | None:
        """Return the labels of the samples in `index` (None: all).

        The shape is (n,) or (n, ...). Integers of shape (n,) are classes if `Data.classes` has names, and otherwise a target
        of regression. The result is None if there are no labels.
        """
        ...

    def natural(self) -> Population | None:
        """Return the clients that the data names; None without any."""
        ...

    def subset(self, index: np.ndarray) -> Samples:
        """Return the samples in `index`, in that order."""
        ...

    def batches(
        self,
        index: np.ndarray | None,
        size: int | None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """Return batches of the samples in `index`.

        Args:
            index: sample numbers; None for all samples.
            size: samples in a batch; None for all samples in one batch.
            generator: source of the order and of the augmentation; without it the order is that of `index`, and nothing is
                augmented.
            drop_last: True leaves out a last batch that is not full.
        """
        ...

    def to(self, device: torch.device) -> Samples:
        """Return the samples on the model's device, if they fit there."""
        ...
