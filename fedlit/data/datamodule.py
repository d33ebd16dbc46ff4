"""The loaders of a user's LightningDataModule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from fedlit.core.errors import ConfigError, describe_exception

STAGES = {"train_dataloader": "fit", "val_dataloader": "validate", "test_dataloader": "test"}


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
            _check_loader(name, hook, loader)
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


def _check_loader(name: str, hook: str, loader: Any) -> None:
    """Raise ConfigError if a loader has a setting that would be ignored."""
    if not isinstance(loader, DataLoader):
        why = f"returns a {type(loader).__name__} in {hook}"
        raise ConfigError("_target_", name, why, "return a torch.utils.data.DataLoader over a map-style dataset")
    if isinstance(loader.dataset, IterableDataset):
        why = f"has an IterableDataset in {hook}"
        raise ConfigError("_target_", name, why, "your dataset needs len() and items by number")
    if loader.batch_size is None and loader.batch_sampler is None:
        why = f"has a dataset that makes its own batches in {hook}: batch_size is None"
        raise ConfigError("_target_", name, why, "use a dataset of single samples; data.batch_size sets the batches")
    is_batched_by_torch = type(loader.batch_sampler) is BatchSampler
    if is_batched_by_torch and _visits_each_sample_once(loader.sampler):
        return
    sampler = loader.sampler if is_batched_by_torch else loader.batch_sampler
    why = f"has a {type(sampler).__name__} in {hook}, which would be ignored"
    hint = "remove it: each client reads its own shard in random order, data.batch_size samples at a time"
    raise ConfigError("_target_", name, why, hint)


def _visits_each_sample_once(sampler: Any) -> bool:
    """Return True if torch's own sampler yields each sample once."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return type(sampler) is SequentialSampler
