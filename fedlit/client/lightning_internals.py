"""Private and undocumented APIs of Lightning, checked with lightning 2.6.6.

Each use in fedlit goes through one small function of this file.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import lightning.pytorch.trainer.connectors.callback_connector as callback_connector
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.parsing import clean_namespace
from torch import Tensor

from fedlit.client.lightning_logging import quiet_logger, signatures_once
from fedlit.core.torch_internals import cached_gpu_count

_groups_without_callbacks: set[str] = set()
_is_scope_open = False


@contextmanager
def trainer_scope() -> Iterator[None]:
    """Make Trainers inside the block cheap and quiet.

    After the block everything is as before, also after an exception and when scopes are nested: a user's own Trainers in the
    same script do not change. For the main thread only.
    """
    global _is_scope_open
    if _is_scope_open:
        yield
        return
    _is_scope_open = True
    try:
        with external_callbacks_once(), signatures_once(), quiet_logger(), cached_gpu_count():
            yield
    finally:
        _is_scope_open = False


@contextmanager
def external_callbacks_once() -> Iterator[None]:
    """Search installed packages for callbacks once a process, not for each Trainer.

    The search takes as long as the rest of a Trainer's construction. Callbacks of packages that have some are still made for
    each Trainer, since callbacks carry state. Uses `callback_connector._load_external_callbacks`; checked with
    lightning 2.6.6.
    """
    search = callback_connector._load_external_callbacks
    callback_connector._load_external_callbacks = lambda group: _load_once(search, group)
    try:
        yield
    finally:
        callback_connector._load_external_callbacks = search


def _load_once(search: Callable[[str], list[Any]], group: str) -> list[Any]:
    if group in _groups_without_callbacks:
        return []
    callbacks = search(group)
    if not callbacks:
        _groups_without_callbacks.add(group)
    return callbacks


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Hide warnings of Lightning that a client cannot avoid.

    The Trainer of a client has no logger, and `data.num_workers` sets the workers.
    Relies on the words of the warnings; checked with lightning 2.6.6.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        for words in ("does not have many workers", "logger=True.* but have no logger configured"):
            warnings.filterwarnings("ignore", message=f".*{words}.*")
        yield


@contextmanager
def detached_trainer(module: LightningModule) -> Iterator[None]:
    """Detach the module's Trainer inside the block.

    A copy of the module then does not copy the Trainer.
    Uses `LightningModule._trainer`; checked with lightning 2.6.6.
    """
    trainer, module._trainer = module._trainer, None
    try:
        yield
    finally:
        module._trainer = trainer


def share_trainer(source: LightningModule, target: LightningModule) -> None:
    """Give `target` the Trainer of `source`, or none if `source` has none.

    Uses `LightningModule._trainer`; checked with lightning 2.6.6.
    """
    target._trainer = source._trainer


@cache
def own_attributes() -> frozenset[str]:
    """Return the names of Lightning's and torch's private attributes of a module.

    Reads the names that begin with `_` in `vars(LightningModule())`; checked with lightning 2.6.6.
    """
    return frozenset(name for name in vars(LightningModule()) if name.startswith("_"))


def overrides(module: LightningModule, method: str) -> bool:
    """Return True if the module overrides a method of LightningModule.

    Uses `lightning.pytorch.utilities.model_helpers.is_overridden`; checked with lightning 2.6.6.
    """
    return is_overridden(method, module)


def no_validation(module: LightningModule) -> list[Any] | None:
    """Return the validation loaders of a fit without validation.

    Lightning warns of a `validation_step` without a loader, and of a loader without a `validation_step`; checked with
    lightning 2.6.6.
    """
    return [] if overrides(module, "validation_step") else None


def set_max_steps(trainer: Trainer, steps: int) -> None:
    """End a running fit after `steps` optimizer steps.

    Call it in `on_train_start`: the module has configured its schedulers by then, for the whole fit.
    Sets `trainer.fit_loop.epoch_loop.max_steps`; checked with lightning 2.6.6.
    """
    trainer.fit_loop.epoch_loop.max_steps = steps


def mark_last_batch(trainer: Trainer) -> None:
    """Make the batch that begins now the last of its epoch.

    The optimizer then steps even if fewer batches are accumulated.
    Sets `trainer.fit_loop.epoch_loop.batch_progress.is_last_batch`; checked with lightning 2.6.6.
    """
    trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True


def replace_steps(trainer: Trainer, run: Callable[[Any, int, Callable[[], Tensor | None]], None]) -> None:
    """Run a function instead of each step of a fit.

    The fit has one epoch. Neither optimizers nor schedulers step.

    Args:
        trainer: a Trainer before its fit.
        run: function of a batch, its number, and a function that returns the loss of `training_step`, which may be None.

    Replaces `run` of the automatic optimization and `update_lr_schedulers` of the epoch loop; checked with lightning 2.6.6.
    """
    loop = trainer.fit_loop.epoch_loop
    optimization = loop.automatic_optimization

    def run_instead(optimizer: object, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        trainer.fit_loop.max_epochs = 1  # not in the Trainer's arguments, since the module may read the length of a fit
        run(loop._results.batch, batch_idx, lambda: optimization._training_step(kwargs).closure_loss)
        return {}

    optimization.run = run_instead
    loop.update_lr_schedulers = lambda *_, **__: None


def scales_gradients(trainer: Trainer) -> bool:
    """Return True if the Trainer's precision plugin has a GradScaler.

    Reads `trainer.precision_plugin.scaler`; checked with lightning 2.6.6.
    """
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def average_function(callback: WeightAveraging) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return the function with which a callback averages weights.

    Its arguments are the average, the new weight, and the number of weights in the average; it returns the new average.

    Reads `WeightAveraging._kwargs`, the arguments of its `AveragedModel`; checked with lightning 2.6.6.
    """
    options = callback._kwargs
    one, several = options.get("avg_fn"), options.get("multi_avg_fn")

    def update(average: Tensor, weight: Tensor, count: int) -> Tensor:
        if several is not None:
            average = average.clone()
            several([average], [weight], torch.tensor(count))
            return average
        if one is not None:
            return torch.as_tensor(one(average, weight, torch.tensor(count)))
        return average + (weight - average) / (count + 1)

    return update


def first_averaged_epoch(callback: StochasticWeightAveraging, epochs: int) -> int:
    """Return the first epoch at whose beginning the weights are averaged.

    Reads `StochasticWeightAveraging._swa_epoch_start`, a share of the epochs or a number from 1; checked with lightning 2.6.6.
    """
    start = callback._swa_epoch_start
    return max(0, (int(epochs * start) if isinstance(start, float) else start) - 1)


def weights_checkpoint(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return the content of a checkpoint without optimizer states.

    The Trainer does not run. The module's `on_save_checkpoint` sees it.
    Uses `trainer.strategy.connect` and `trainer._checkpoint_connector.dump_checkpoint`; checked with lightning 2.6.6.
    """
    trainer.strategy.connect(module)
    module.trainer = trainer
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=True)


def remove_unpicklable_hparams(module: LightningModule) -> None:
    """Remove hyperparameters that cannot be pickled, with Lightning's warning.

    Each fit would remove them, and warn again.
    Uses `lightning.pytorch.utilities.parsing.clean_namespace`; checked with lightning 2.6.6.
    """
    clean_namespace(module.hparams)
