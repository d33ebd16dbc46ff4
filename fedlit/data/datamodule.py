"""A user's loaders and LightningDataModule."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from fedlit.core.errors import ConfigError, describe_exception
from fedlit.data.protocols import Batches

DataModule = LightningDataModule

STAGES = {"train_dataloader": "fit", "val_dataloader": "validate", "test_dataloader": "test"}

UNCALLED_HOOKS = ("prepare_data", "setup", "teardown", "state_dict", "load_state_dict")
"""Hooks of a data module that a Trainer of a client does not call: `read_loaders` has set the module up."""


@dataclass(frozen=True)
class LoaderSettings:
    """Settings of a user's DataLoader that a run replaces.

    Args:
        batch_size: samples in a batch.
        drop_last: True leaves out a last batch that is not full.
        num_workers: processes that load samples.
        shuffle: True if samples are read in random order.
    """

    batch_size: int
    drop_last: bool
    num_workers: int
    shuffle: bool

    @classmethod
    def of(cls, loader: DataLoader[Any]) -> LoaderSettings:
        """Return the settings of a loader that `check_loader` accepts."""
        batches = loader.batch_sampler  # a loader with a BatchSampler of the user's has the batch size there alone
        assert isinstance(batches, BatchSampler)
        is_random = isinstance(batches.sampler, RandomSampler)
        return cls(batches.batch_size, batches.drop_last, loader.num_workers, is_random)


def read_loaders(module: LightningDataModule) -> tuple[Any, ...]:
    """Set up a data module and return its loaders.

    The order of the hooks is a Trainer's. Each loader is read right after the setup of its stage, since a later stage may
    replace what an earlier one made.

    Returns:
        The training, validation and test loader; None for a loader that the module lacks.

    Raises:
        ConfigError: if a hook fails, or a loader is not a plain one over a map-style dataset.
    """
    name, loaders = type(module).__name__, []
    _call_hook(module, "prepare_data")
    for hook, stage in STAGES.items():
        _call_hook(module, "setup", stage)
        has_hook = hook in vars(module) or getattr(type(module), hook) is not getattr(LightningDataModule, hook)
        loader = _single_loader(name, hook, _call_hook(module, hook)) if has_hook else None
        if loader is not None:
            check_loader(name, hook, loader)
        loaders.append(loader)
    if loaders[0] is None:
        raise ConfigError("_target_", name, "has no train_dataloader", "add one over a map-style dataset")
    return tuple(loaders)


def _call_hook(module: LightningDataModule, hook: str, *arguments: str) -> Any:
    try:
        return getattr(module, hook)(*arguments)
    except Exception as error:  # user code may raise anything
        why = f"fails in {hook}({', '.join(arguments)}): {describe_exception(error)}"
        raise ConfigError("_target_", type(module).__name__, why, "traceback=true shows where") from error


def _single_loader(name: str, hook: str, loaders: Any) -> Any:
    """Return the single loader of a collection; None if it is empty."""
    if isinstance(loaders, CombinedLoader):
        loaders = loaders.flattened
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if not isinstance(loaders, list | tuple):
        return loaders
    if len(loaders) > 1:
        why = f"has {len(loaders)} loaders in {hook}, but must have one"
        raise ConfigError("_target_", name, why, "join your datasets with torch.utils.data.ConcatDataset")
    return _single_loader(name, hook, loaders[0]) if loaders else None


def check_loader(name: str, place: str, loader: Any) -> None:
    """Raise ConfigError if a loader has a setting that would be ignored.

    Args:
        name: name of the loader's owner.
        place: name of the loader: the hook of a data module, or its position in a pair.
        loader: the loader.
    """
    if not isinstance(loader, DataLoader):
        why = f"returns a {type(loader).__name__} in {place}"
        raise ConfigError("_target_", name, why, "return a torch.utils.data.DataLoader over a map-style dataset")
    if isinstance(loader.dataset, IterableDataset):
        why = f"has an IterableDataset in {place}"
        raise ConfigError("_target_", name, why, "your dataset needs len() and items by number")
    if loader.batch_size is None and loader.batch_sampler is None:
        why = f"has a dataset that makes its own batches in {place}: batch_size is None"
        raise ConfigError("_target_", name, why, "use a dataset of single samples; data.batch_size sets the batches")
    sampler = loader.batch_sampler
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
        if _visits_each_sample_once(sampler, loader.dataset):
            return
    why = f"has a {type(sampler).__name__} in {place}, which would be ignored"
    hint = "remove it: each client reads its own shard in random order, data.batch_size samples at a time"
    raise ConfigError("_target_", name, why, hint)


def _visits_each_sample_once(sampler: Any, dataset: Any) -> bool:
    """Return True if torch's own sampler yields each sample once."""
    if type(sampler) not in (RandomSampler, SequentialSampler):
        return False
    if type(sampler) is RandomSampler and (sampler.replacement or sampler.num_samples != len(sampler.data_source)):
        return False
    return sampler.data_source is dataset or len(sampler.data_source) == len(dataset)


def without_trainer(datamodule: DataModule | None) -> DataModule | None:
    """Return a shallow copy without a Trainer.

    The copy can be sent to a worker process.
    """
    if datamodule is not None:
        datamodule = copy.copy(datamodule)
        datamodule.trainer = None
    return datamodule


def fit_arguments(datamodule: DataModule | None, train: Batches, val: Sequence[Any] | None) -> dict[str, Any]:
    """Return the arguments of `Trainer.fit` that give it the data.

    Args:
        datamodule: the user's data module, whose hooks the Trainer calls; None without one.
        train: the batches of training.
        val: loaders of the validation within the fit; None for no validation.
    """
    if datamodule is None:
        return {"train_dataloaders": train, "val_dataloaders": val}
    return {"datamodule": _with_loaders(datamodule, train_dataloader=train, val_dataloader=val)}


def evaluation_arguments(datamodule: DataModule | None, batches: Batches) -> dict[str, Any]:
    """Return the arguments of `Trainer.validate` and `Trainer.test`.

    Args:
        datamodule: the user's data module, whose hooks the Trainer calls; None without one.
        batches: the batches.
    """
    if datamodule is None:
        return {"dataloaders": batches, "verbose": False}
    view = _with_loaders(datamodule, val_dataloader=batches, test_dataloader=batches)
    return {"datamodule": view, "verbose": False}


def apply_hooks(datamodule: DataModule, trainer: Any, batch: Any) -> Any:
    """Return a batch after the data module's hooks, on the Trainer's device."""
    view = _with_loaders(datamodule)
    view.trainer = trainer
    batch = view.on_before_batch_transfer(batch, 0)
    batch = view.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
    return view.on_after_batch_transfer(batch, 0)


def _with_loaders(datamodule: DataModule, **loaders: Any) -> DataModule:
    """Return a shallow copy of a data module with other loaders.

    A Trainer calls its hooks of batches and attaches itself to the copy. So an attribute that a hook assigns does not reach
    the next fit. A loader that is None counts as missing.
    """
    view = copy.copy(datamodule)
    for hook in UNCALLED_HOOKS:
        setattr(view, hook, _do_nothing)
    for hook in STAGES:
        loader = loaders.get(hook)
        missing = MethodType(getattr(LightningDataModule, hook), view)
        setattr(view, hook, missing if loader is None else lambda loader=loader: loader)
    return view


def _do_nothing(*_: Any, **__: Any) -> dict[str, Any]:
    return {}
