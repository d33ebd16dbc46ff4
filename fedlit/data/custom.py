"""A user's own data: map-style datasets, or a LightningDataModule that has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fedlit.core.errors import ConfigError
from fedlit.data.datamodule import read_loaders
from fedlit.data.population import Population
from fedlit.data.protocols import Batches
from fedlit.data.samples import Data


def to_data(given: Any, num_workers: int) -> Data:
    """Data of what a user's `_target_` made.

    Args:
        given: `Data`; a pair (train, test) or triple (train, val, test) of map-style datasets; or a LightningDataModule with
            a train_dataloader, and a val_dataloader and a test_dataloader if it has them, over map-style datasets. Of its
            loaders the dataset and the collate_fn are taken; how large batches are and in which order is `Loading`'s to say.
        num_workers: processes that load a dataset's samples.

    Raises:
        Mistake: if it is none of them, or a loader does what would be lost.
    """
    if isinstance(given, Data):
        return given
    name = type(given).__name__
    if isinstance(given, LightningDataModule):
        given = read_loaders(given)
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ConfigError(
            "_target_", name, "must make a pair of map-style datasets, a LightningDataModule or fedlit.data.Data"
        )
    train, *more = (None if part is None else DatasetSamples.of(part, num_workers) for part in given)
    if train is None or not len(train):
        raise ConfigError("_target_", name, "gives no training sample")
    classes = _classes([part.targets for part in (train, *more) if part is not None])
    name = "your data" if name in ("tuple", "list") else name
    return Data(name, train, more[-1], _shape(train), classes, more[0] if len(more) == 2 else None)


def _classes(targets: Sequence[np.ndarray | None]) -> tuple[str, ...]:
    """Names of the classes, if the labels of the first, the training set, are whole numbers from 0."""
    whole = [part for part in targets if part is not None and part.ndim == 1 and part.dtype.kind in "iu" and len(part)]
    if targets[0] is None or len(whole) < len([part for part in targets if part is not None and len(part)]):
        return ()
    if min(part.min() for part in whole) < 0:
        return ()
    return tuple(str(label) for label in range(max(int(part.max()) for part in whole) + 1))


@dataclass(frozen=True)
class DatasetSamples:
    """A map-style dataset, read by a DataLoader.

    Args:
        dataset: whose items are what `training_step` takes, a sample at a time.
        targets: a label for each sample, shape (n, ...); None where there are none.
        owner: the client of each sample, in range(clients); None where the data does not say.
        clients: number of clients.
        num_workers: processes that load samples.
        collate: makes a batch of a list of samples; None for torch's own.
    """

    dataset: Dataset[Any]
    targets: np.ndarray | None
    owner: np.ndarray | None
    clients: int
    num_workers: int
    collate: Callable[[list[Any]], Any] | None = None

    @classmethod
    def of(cls, given: Any, num_workers: int) -> DatasetSamples:
        """A dataset, or the one of a loader, with what its attributes `targets` or `labels`, and `clients`, say of it.

        Raises:
            Mistake: if it has no length or no items by number, or an attribute has another length, or labels are no numbers.
        """
        dataset, collate = (given.dataset, given.collate_fn) if isinstance(given, DataLoader) else (given, None)
        what = type(dataset).__name__
        if (
            isinstance(dataset, IterableDataset)
            or not isinstance(dataset, Sized)
            or not hasattr(dataset, "__getitem__")
        ):
            raise ConfigError("_target_", what, "is not map-style: a dataset needs len() and items by number")
        targets, keys = _attribute(dataset, ("targets", "labels")), _attribute(dataset, ("clients",))
        if targets is not None and targets.dtype.kind not in "biuf":
            why = f"has labels that are no numbers, such as {targets.flat[0]!r}" if targets.size else "has no label"
            raise ConfigError("_target_", what, why, "number the classes from 0, in `targets` and in the items")
        if targets is not None and targets.dtype.kind == "b":
            targets = targets.astype(np.int64)
        for values, named in ((targets, "labels"), (keys, "client keys")):
            if values is not None and (values.ndim == 0 or len(values) != len(dataset)):
                count = len(values) if values.ndim else "no list of"
                raise ConfigError("_target_", what, f"has {len(dataset)} samples but {count} {named}")
        names, owner = (None, None) if keys is None else _numbered(keys, what)
        return cls(dataset, targets, owner, 0 if names is None else len(names), num_workers, collate)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def labels(self, index: np.ndarray | None = None) -> np.ndarray | None:
        """The targets of some samples, or of all."""
        return self.targets if index is None or self.targets is None else self.targets[index]

    def natural(self) -> Population | None:
        """The population that the dataset's `clients` describe."""
        return None if self.owner is None else Population.of(self.owner, self.clients)

    def subset(self, index: np.ndarray) -> DatasetSamples:
        """The samples in `index`."""
        return replace(
            self,
            dataset=Subset(self.dataset, index.tolist()),
            targets=self.labels(index),
            owner=None if self.owner is None else self.owner[index],
        )

    def to(self, device: torch.device) -> DatasetSamples:
        """Itself: a Trainer moves the batches."""
        return self

    def batches(
        self,
        index: np.ndarray | None,
        size: int | None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """Batches of the samples in `index`: see `protocols.Samples`. What the dataset draws while it is read comes from the
        global generators, which a local fit seeds, or from the loader's workers, which the generator seeds."""
        chosen = self.dataset if index is None else Subset(self.dataset, index.tolist())
        count = len(self) if index is None else len(index)
        if count == 0:
            return []  # type: ignore[return-value]
        shuffle = generator is not None
        workers = min(self.num_workers, count)
        more = {"drop_last": drop_last, "num_workers": workers, "collate_fn": self.collate}
        return DataLoader(chosen, size or count, shuffle, generator=generator, **more)  # type: ignore[return-value]


def _attribute(dataset: Any, names: Sequence[str]) -> np.ndarray | None:
    """The first of the attributes, as an array; of a Subset, those of its samples; of a TensorDataset, its last tensor."""
    if isinstance(dataset, Subset):
        whole = _attribute(dataset.dataset, names)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    if isinstance(dataset, TensorDataset) and "labels" in names and len(dataset.tensors) > 1:
        return _array(dataset, "the last tensor", dataset.tensors[-1])
    for name in names:
        if (values := getattr(dataset, name, None)) is not None:
            return _array(dataset, name, values)
    return None


def _array(dataset: Any, name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths, dtypes that NumPy has not
        why = f"has {name} of which there is no array: {error}".splitlines()[0]
        raise ConfigError("_target_", type(dataset).__name__, why, "give a number for each sample") from error


def _numbered(keys: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The different keys, and for each sample the number of its own."""
    if keys.ndim != 1:
        raise ConfigError("_target_", what, f"has client keys of shape {list(keys.shape)}", "give one for each sample")
    try:
        return np.unique(keys, return_inverse=True)
    except TypeError as error:  # None among words
        raise ConfigError("_target_", what, f"has client keys that have no order: {error}", "give words") from error


def _shape(samples: DatasetSamples) -> tuple[int, ...]:
    """Of the first part of the first sample, if that is a tensor or an array."""
    try:
        item, batch = samples.dataset[0], samples.collate is not None
        item = samples.collate([item]) if samples.collate is not None else item
    except Exception as error:  # foreign code
        why = f"does not give its first sample: {type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError("_target_", type(samples.dataset).__name__, why) from error
    first = item[0] if isinstance(item, tuple | list) and item else item
    return tuple(first.shape)[int(batch) :] if isinstance(first, torch.Tensor | np.ndarray) else ()
