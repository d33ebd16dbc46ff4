"""The loaders of a user's LightningDataModule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from fedlit.core.errors import ConfigError

STAGES = {"train_dataloader": "fit", "val_dataloader": "validate", "test_dataloader": "test"}


def read_loaders(module: LightningDataModule) -> tuple[Any, ...]:
    """The three loaders of a data module, None where it has none. It is set up as a Trainer would: each loader is asked for
    when its stage was set up, since a later stage may replace what an earlier one made.

    Raises:
        Mistake: if one of its hooks fails, or a loader is not a plain one over a map-style dataset.
    """
    name, given = type(module).__name__, []
    _called(module, "prepare_data")
    for hook, stage in STAGES.items():
        _called(module, "setup", stage)
        own = hook in vars(module) or getattr(type(module), hook) is not getattr(LightningDataModule, hook)
        loader = _only(name, hook, _called(module, hook)) if own else None
        if loader is not None:
            _check(name, hook, loader)
        given.append(loader)
    if given[0] is None:
        raise ConfigError("_target_", name, "has no train_dataloader over a map-style dataset")
    return tuple(given)


def _called(module: LightningDataModule, hook: str, *arguments: str) -> Any:
    try:
        return getattr(module, hook)(*arguments)
    except Exception as error:  # foreign code
        why = f"fails in {hook}({', '.join(arguments)}): {type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError("_target_", type(module).__name__, why, "traceback=true shows where") from error


def _only(name: str, hook: str, loaders: Any) -> Any:
    """The one loader of what may be a collection of one."""
    if isinstance(loaders, CombinedLoader):
        loaders = loaders.flattened
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if not isinstance(loaders, list | tuple):
        return loaders
    if len(loaders) > 1:
        why = f"gives {len(loaders)} loaders in {hook}"
        raise ConfigError(
            "_target_", name, why, "give one, over a torch.utils.data.ConcatDataset of theirs if all are meant"
        )
    return _only(name, hook, loaders[0]) if loaders else None


def _check(name: str, hook: str, loader: Any) -> None:
    """Raises Mistake if a loader does what shards and `data.batch_size` would undo."""
    if not isinstance(loader, DataLoader):
        why = f"gives a {type(loader).__name__} in {hook}"
        raise ConfigError("_target_", name, why, "it must be a torch.utils.data.DataLoader over a map-style dataset")
    if isinstance(loader.dataset, IterableDataset):
        raise ConfigError(
            "_target_", name, f"has an IterableDataset in {hook}", "a dataset needs len() and items by number"
        )
    if loader.batch_size is None and loader.batch_sampler is None:
        why = f"makes its batches itself in {hook}: its batch_size is None"
        raise ConfigError("_target_", name, why, "give a dataset of samples; data.batch_size says how many are a batch")
    if type(loader.batch_sampler) is BatchSampler and _plain(loader.sampler):
        return
    own = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
    remedy = "leave it out: each client goes through its own shard in random order, data.batch_size samples at a time"
    raise ConfigError("_target_", name, f"has a {type(own).__name__} in {hook}, which would be ignored", remedy)


def _plain(sampler: Any) -> bool:
    """Whether it gives each sample once."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return type(sampler) is SequentialSampler
