"""Private APIs of Lightning inside of one run, checked with lightning 2.6.6.

A run of these classes is Lightning's own: the same hooks see the same state in the same order. They leave out what changes
nothing: hooks that nobody overrides, contexts of a profiler that measures nothing, random states around a check that is off.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import cached_property
from inspect import Signature
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.loops.utilities import _select_data_fetcher
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.connectors.data_connector import _check_dataloader_iterable
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader

from fedlit.client.fit.lightning_hooks import (
    TRANSFERS,
    FetchedBatch,
    LightOptimization,
    LightPrecision,
    call_callbacks,
    call_module,
    is_own,
)

OTHER_BATCHES = (DataLoader, CombinedLoader, LightningDataModule, LightningModule, dict, list, tuple, deque)
"""Sources of batches that Lightning changes or combines."""

IS_CHECKED = lightning.__version__ in {"2.6.0", "2.6.1", "2.6.4", "2.6.5", "2.6.6"}
"""True for the versions whose functions are replaced; a Trainer of another version keeps its own."""


class LightTrainer(Trainer):
    """A Trainer whose arguments come from no environment variable.

    Lightning reads the names of the arguments from the signature of the class, once for each Trainer.
    """

    __signature__ = Signature()

    @cached_property
    def strategy(self) -> Strategy:  # type: ignore[override]
        """The strategy, which stays the same; Lightning asks often."""
        return self._accelerator_connector.strategy

    @property
    def lightning_module(self) -> LightningModule:
        """The module of the run."""
        return self.strategy._lightning_module  # type: ignore[return-value]

    @property
    def training(self) -> bool:
        """True in the training stage."""
        return self.state.stage is RunningStage.TRAINING

    @training.setter
    def training(self, val: bool) -> None:
        Trainer.training.__set__(self, val)

    @property
    def enable_validation(self) -> bool:
        """True if the fit validates."""
        return self.limit_val_batches > 0 and Trainer.enable_validation.__get__(self)

    @property
    def _results(self) -> Any:
        return self.fit_loop.epoch_loop._results if self.training else Trainer._results.__get__(self)

    def _run_stage(self) -> Any:
        """Run a stage.

        Lightning saves all random states around a sanity check, which is off in a fit.
        """
        if not IS_CHECKED or not self.training or self.num_sanity_val_steps:
            return super()._run_stage()
        self.strategy.barrier("run-stage")
        self.lightning_module.zero_grad()
        with torch.autograd.set_detect_anomaly(self._detect_anomaly):
            self.fit_loop.run()
        return None


def use_light_loops(trainer: Trainer) -> None:
    """Give the parts of a Trainer the classes below.

    Sets `__class__` of `fit_loop`, `epoch_loop`, `automatic_optimization`, of a `Precision` without options, and of
    `_checkpoint_connector`; checked with lightning 2.6.6.
    """
    if not IS_CHECKED or not isinstance(trainer.strategy, SingleDeviceStrategy) or trainer.world_size > 1:
        return
    trainer._checkpoint_connector.__class__ = LightCheckpoints
    trainer.fit_loop.__class__ = LightFitLoop
    trainer.fit_loop.epoch_loop.__class__ = LightEpochLoop
    trainer.fit_loop.epoch_loop.automatic_optimization.__class__ = LightOptimization
    if type(trainer.precision_plugin) is Precision:
        trainer.precision_plugin.__class__ = LightPrecision


class LightCheckpoints(_CheckpointConnector):
    """Lightning's checkpoints, without those of a SLURM job, which no client writes."""

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, model_provided: bool, model_connected: bool) -> Any:
        if ckpt_path is None and model_provided:
            return None
        return super()._parse_ckpt_path(state_fn, ckpt_path, model_provided, model_connected)


class LightFitLoop(_FitLoop):
    """Lightning's fit loop."""

    def setup_data(self) -> None:
        """Set up the batches.

        The steps are those that `_FitLoop.setup_data` has for plain batches.
        """
        trainer, source = self.trainer, self._data_source
        if self._combined_loader is not None or not self._has_plain_batches():
            super().setup_data()
            return
        _check_dataloader_iterable(source.instance, source, TrainerFn.FITTING)
        loader = CombinedLoader(trainer.strategy.process_dataloader(source.instance), "max_size_cycle")
        self.max_batches = len(source.instance)  # type: ignore[arg-type]
        loader.limits = [self.max_batches]
        self._combined_loader, self._data_fetcher = loader, _select_data_fetcher(trainer, RunningStage.TRAINING)
        self._data_fetcher.setup(loader)
        iter(self._data_fetcher)
        self._last_train_dl_reload_epoch = trainer.current_epoch
        trainer.val_check_batch = self.max_batches

    def _has_plain_batches(self) -> bool:
        """Return True if the run needs all of a client's batches.

        They have a length; no module makes them, and no DataLoader loads them.
        """
        trainer: Any = self.trainer
        batches = self._data_source.instance
        return (
            not isinstance(batches, OTHER_BATCHES)
            and not hasattr(batches, "dataset")
            and bool(sized_len(batches))
            and is_overridden("training_step", trainer.lightning_module)
            and (trainer.limit_train_batches, trainer.overfit_batches, trainer.val_check_interval) == (1.0, 0.0, 1.0)
            and not (isinstance(trainer.limit_train_batches, int) or isinstance(trainer.val_check_interval, int))
            and trainer.datamodule is None
            and trainer._val_check_time_interval is None
            and not self._should_reload_train_dl
        )

    def _warn_if_modules_in_eval_mode(self) -> None:
        if not all(part.training for part in self.trainer.lightning_module.modules()):
            super()._warn_if_modules_in_eval_mode()


class LightEpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch."""

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train on one batch.

        The steps are those of `_TrainingEpochLoop.advance`, in their order.
        """
        trainer = self.trainer
        if self.restarting or type(data_fetcher) is not _PrefetchDataFetcher:
            super().advance(data_fetcher)
            return
        fetched = next(data_fetcher)
        batch, batch_idx = fetched[0], self.batch_idx + 1
        if batch is None:
            super().advance(FetchedBatch(fetched, data_fetcher.done))  # type: ignore[arg-type]
            return
        self.batch_progress.is_last_batch = data_fetcher.done
        batch = self._prepare(batch)
        self.batch_progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)
        output, skips_rest = None, False
        if batch is None:
            self._warning_cache.warn("a hook replaced a batch by None; the fit continues with the next one")
        else:
            call_callbacks(trainer, "on_train_batch_start", batch, batch_idx)
            skips_rest = call_module(trainer, "on_train_batch_start", batch, batch_idx) == -1
            trainer.strategy.on_train_batch_start(batch, batch_idx)
            if skips_rest:
                self.batch_progress.increment_by(0, is_last_batch=True)
            else:
                self.batch_progress.increment_started()
                output = self._step(batch_idx, self._build_kwargs(OrderedDict(), batch, batch_idx))
        self.batch_progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if skips_rest:
            raise StopIteration
        call_callbacks(trainer, "on_train_batch_end", output, batch, batch_idx)
        call_module(trainer, "on_train_batch_end", output, batch, batch_idx)
        trainer._logger_connector.on_batch_end()
        self.batch_progress.increment_completed()
        trainer._logger_connector.update_train_step_metrics()

    def _step(self, batch_idx: int, arguments: OrderedDict[str, Any]) -> Any:
        trainer = self.trainer
        if trainer.lightning_module.automatic_optimization:
            return self.automatic_optimization.run(trainer.optimizers[0], batch_idx, arguments)
        return self.manual_optimization.run(arguments)

    def _prepare(self, batch: Any) -> Any:
        """Return the batch on the device, after the hooks."""
        trainer = self.trainer
        module = trainer.lightning_module
        batch = trainer.precision_plugin.convert_input(batch)
        if self._stays(batch) and trainer.datamodule is None and all(is_own(module, name) for name in TRANSFERS):  # type: ignore[attr-defined]
            return batch
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)

    def _stays(self, batch: Any) -> bool:
        """Return True for a tuple of tensors that stay on the CPU."""
        return (
            type(batch) is tuple
            and self.trainer.strategy.root_device.type == "cpu"
            and all(type(part) is Tensor and part.is_cpu for part in batch)
        )

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        """Step the schedulers, if there are any."""
        if self.trainer.strategy.lr_scheduler_configs:
            super().update_lr_schedulers(interval, update_plateau_schedulers)

    def _should_accumulate(self) -> bool:
        return self.trainer.accumulate_grad_batches != 1 and super()._should_accumulate()
