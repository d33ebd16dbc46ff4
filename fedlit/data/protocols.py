"""TODO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from fedlit.data.population import Population


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
