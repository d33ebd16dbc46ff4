"""Data of the user: map-style datasets, or a LightningDataModule over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from fedlit.core.errors import ConfigError, describe_exception
from fedlit.data.datamodule import LoaderSettings, check_loader, read_loaders, without_trainer
from fedlit.data.population import Population
from fedlit.data.protocols import Batches
from fedlit.data.samples import Data

DataSource = Data | LightningDataModule | tuple[Any, ...] | list[Any]
"""Data, a data module, or a pair or triple of datasets: see `to_data`."""

_SPLITS = {2: ("training", "test"), 3: ("training", "validation", "test")}
"""Names of the sets in a pair and in a triple."""

MAX_SPARSE_CLASSES = 1000
"""Largest number of classes of which most may be missing in the data."""

NUMBER_CLASSES = "number the classes from 0, in `targets` and in the items"


def to_data(source: DataSource, num_workers: int = 0) -> Data:
    """Convert a user's data to Data.

    Args:
        source: `Data`; a pair (train, test) or triple (train, val, test) of map-style datasets; or a LightningDataModule with
            map-style datasets in its train_dataloader and, optionally, its val_dataloader and test_dataloader. A pair may
            have DataLoaders too. The dataset, collate_fn and worker_init_fn of each loader are used; batch sizes and order
            are those of `Loading`.
        num_workers: processes that load a dataset's samples.

    Raises:
        ConfigError: if `source` is none of them, or a loader has a setting that would be ignored.
    """
    if isinstance(source, Data):
        return source
    name, datamodule = type(source).__name__, None
    if isinstance(source, LightningDataModule):
        datamodule, source = source, read_loaders(source)
    if not isinstance(source, tuple | list) or len(source) not in (2, 3):
        problem = "is not data: it must be a pair of map-style datasets, a LightningDataModule or fedlit.data.Data"
        raise ConfigError("_target_", name, problem)
    if datamodule is None:
        for split, part in zip(_SPLITS[len(source)], source, strict=True):
            if isinstance(part, DataLoader):
                check_loader(name, f"the {split} loader", part)
    parts = [None if part is None else DatasetSamples.of(part, num_workers) for part in source]
    for split, part in zip(_SPLITS[len(source)], parts, strict=True):
        if part is not None and not len(part):
            raise ConfigError(
                "_target_", name, f"has a {split} set without a sample", "only a training set is necessary"
            )
    train, *others = parts
    if train is None:
        raise ConfigError("_target_", name, "has no training set")
    classes = _class_names([part.targets for part in (train, *others) if part is not None])
    name = "your data" if name in ("tuple", "list") else name
    val = others[0] if len(others) == 2 else None
    return Data(name, train, others[-1], _input_shape(train), classes, val, datamodule=without_trainer(datamodule))


def _class_names(targets: Sequence[np.ndarray | None]) -> tuple[str, ...]:
    """Return the names of the classes; () if labels are not classes.

    Labels are classes if they are whole numbers from 0, and not spread as widely as a price or a time stamp: there are at most
    MAX_SPARSE_CLASSES, or at least half of the numbers up to the largest occur.

    Args:
        targets: labels of each set, the training set first.
    """
    labels = [part for part in targets if part is not None and part.ndim == 1 and part.dtype.kind in "iu" and len(part)]
    if targets[0] is None or len(labels) < len([part for part in targets if part is not None and len(part)]):
        return ()
    if min(part.min() for part in labels) < 0:
        return ()
    classes = max(int(part.max()) for part in labels) + 1
    if classes > MAX_SPARSE_CLASSES and 2 * len(np.unique(np.concatenate(labels))) < classes:
        return ()
    return tuple(str(label) for label in range(classes))


@dataclass(frozen=True)
class DatasetSamples:
    """Samples of a map-style dataset, which a DataLoader reads.

    Args:
        dataset: map-style dataset; an item is one sample in the form that `training_step` takes.
        targets: a label for each sample, shape (n, ...); None if there are no labels.
        owner: the client of each sample, in range(clients), shape (n,); None if the dataset names no clients.
        clients: number of clients.
        num_workers: processes that load samples.
        collate: function from a list of samples to a batch; None for torch's default.
        worker_init: function that each process that loads samples calls with its number; None for none.
        loader: settings of the user's DataLoader that a run replaces; None without a DataLoader.
    """

    dataset: Dataset[Any]
    targets: np.ndarray | None
    owner: np.ndarray | None
    clients: int
    num_workers: int
    collate: Callable[[list[Any]], Any] | None = None
    worker_init: Callable[[int], None] | None = None
    loader: LoaderSettings | None = None

    @classmethod
    def of(cls, source: Any, num_workers: int) -> DatasetSamples:
        """Return the samples of a dataset, or of a loader's dataset.

        Labels are read from the dataset's attribute `targets` or `labels`, clients from its attribute `clients`.

        Raises:
            ConfigError: if the dataset has no length or no items by number, an attribute has another length, or labels are
                not numbers.
        """
        dataset, options = source, {}
        if isinstance(source, DataLoader):
            dataset, settings = source.dataset, LoaderSettings.of(source)
            options = {"collate": source.collate_fn, "worker_init": source.worker_init_fn, "loader": settings}
        name, has_items = type(dataset).__name__, hasattr(dataset, "__getitem__")
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized) or not has_items:
            raise ConfigError("_target_", name, "is not map-style: your dataset needs len() and items by number")
        targets, keys = _read_attribute(dataset, ("targets", "labels")), _read_attribute(dataset, ("clients",))
        if targets is not None and targets.dtype.kind not in "biuf":
            why = f"has labels that are not numbers, such as {targets.flat[0]!r}" if targets.size else "has no label"
            raise ConfigError("_target_", name, why, NUMBER_CLASSES)
        if targets is not None and targets.dtype.kind == "b":
            targets = targets.astype(np.int64)
        for values, kind in ((targets, "labels"), (keys, "client keys")):
            if values is not None and (values.ndim == 0 or len(values) != len(dataset)):
                count = len(values) if values.ndim else "no list of"
                why = f"has {len(dataset)} samples but {count} {kind}"
                raise ConfigError("_target_", name, why, "your dataset needs one for each sample")
        names, owner = (None, None) if keys is None else _number_clients(keys, name)
        return cls(dataset, targets, owner, 0 if names is None else len(names), num_workers, **options)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def labels(self, index: np.ndarray | None = None) -> np.ndarray | None:
        """Return the labels of the samples in `index` (None: all)."""
        return self.targets if index is None or self.targets is None else self.targets[index]

    def natural(self) -> Population | None:
        """Return the clients in the dataset's attribute `clients`; None without it."""
        return None if self.owner is None else Population.of(self.owner, self.clients)

    def subset(self, index: np.ndarray) -> DatasetSamples:
        """Return the samples in `index`, in that order."""
        return replace(
            self,
            dataset=Subset(self.dataset, index.tolist()),
            targets=self.labels(index),
            owner=None if self.owner is None else self.owner[index],
        )

    def to(self, device: torch.device) -> DatasetSamples:
        """Return the same samples: a Trainer moves the batches."""
        return self

    def batches(
        self,
        index: np.ndarray | None,
        size: int | None,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """Return batches of the samples in `index`: see `protocols.Samples`.

        A dataset that draws random numbers takes them from the global generators, which a local fit seeds, or from the
        loader's workers, which `generator` seeds.
        """
        dataset = self.dataset if index is None else Subset(self.dataset, index.tolist())
        count = len(self) if index is None else len(index)
        if count == 0:
            return []  # type: ignore[return-value]
        shuffle = generator is not None
        workers = min(self.num_workers, count)
        options = {"num_workers": workers, "collate_fn": self.collate, "worker_init_fn": self.worker_init}
        return DataLoader(dataset, size or count, shuffle, drop_last=drop_last, generator=generator, **options)  # type: ignore


def _read_attribute(dataset: Any, names: Sequence[str]) -> np.ndarray | None:
    """Return the dataset's first attribute of these names; None without any.

    For a Subset, the values are those of its samples; for a ConcatDataset, those of its parts. For a TensorDataset, the labels
    are its last tensor.
    """
    if isinstance(dataset, Subset):
        values = _read_attribute(dataset.dataset, names)
        return None if values is None else values[np.asarray(dataset.indices)]
    if isinstance(dataset, TensorDataset) and "labels" in names and len(dataset.tensors) > 1:
        return _to_array(dataset, "last tensor", dataset.tensors[-1])
    for name in names:
        if (values := getattr(dataset, name, None)) is not None:
            return _to_array(dataset, name, values)
    if isinstance(dataset, ConcatDataset):
        parts = [part for each in dataset.datasets if (part := _read_attribute(each, names)) is not None and part.ndim]
        if len(parts) == len(dataset.datasets) and len({part.shape[1:] for part in parts}) == 1:
            return np.concatenate(parts)
    return None


def _to_array(dataset: Any, name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths, dtypes that NumPy lacks
        why = f"has {name} that cannot become an array: {error}".splitlines()[0]
        raise ConfigError("_target_", type(dataset).__name__, why, "give one number for each sample") from error


def _number_clients(keys: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Number the clients.

    Returns:
        The distinct keys in order, shape (clients,), and the client number of each sample, shape (n,).
    """
    if keys.ndim != 1:
        why = f"has client keys of shape {list(keys.shape)}"
        raise ConfigError("_target_", name, why, "give one key for each sample")
    try:
        return np.unique(keys, return_inverse=True)
    except TypeError as error:  # None among strings
        why = f"has client keys that cannot be sorted: {error}"
        raise ConfigError("_target_", name, why, "give all keys as strings, or all as numbers") from error


def _input_shape(samples: DatasetSamples) -> tuple[int, ...]:
    """Return the shape of the first input; () if it has none."""
    try:
        item, is_batch = samples.dataset[0], samples.collate is not None
        item = samples.collate([item]) if samples.collate is not None else item
    except Exception as error:  # user code may raise anything
        why = f"cannot read its first sample: {describe_exception(error)}"
        raise ConfigError(
            "_target_", type(samples.dataset).__name__, why, "correct your dataset's __getitem__"
        ) from error
    first = item[0] if isinstance(item, tuple | list) and item else item
    return tuple(first.shape)[int(is_batch) :] if isinstance(first, torch.Tensor | np.ndarray) else ()
