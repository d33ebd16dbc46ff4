"""Canaries of Lightning's private APIs inside of one run; and what a run leaves out changes nothing."""

import hashlib
import inspect
import random
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from conftest import Quadratic
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.optimization.automatic import Closure, _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch.utils.data import DataLoader, TensorDataset

from fedlit.client.fit import lightning_run
from fedlit.client.fit.light_trainer import new_trainer
from fedlit.client.fit.lightning_run import use_light_loops

pytestmark = pytest.mark.filterwarnings("ignore:.*(many workers|validation_step|LeafSpec|yielded None)")

QUIET = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    "accelerator": "cpu",
    "devices": 1,
    "max_epochs": 2,
}
REPLACED = {
    Trainer.strategy: "63bfbecf0933",
    Trainer.lightning_module: "4ceb9f892f4c",
    Trainer.training: "4529cd2d1ec9",
    Trainer.enable_validation: "b720a3d67384",
    Trainer._results: "79fb2b4c83e1",
    Trainer._run_stage: "7ac3f4a2372e",
    Trainer._run_sanity_check: "7112515c75c7",
    _CheckpointConnector._parse_ckpt_path: "adb6f4cce736",
    _FitLoop.setup_data: "778552023344",
    _FitLoop._warn_if_modules_in_eval_mode: "f887dac18e05",
    _TrainingEpochLoop.advance: "c7555c016027",
    _TrainingEpochLoop._should_accumulate: "5482f0c6d473",
    _TrainingEpochLoop.update_lr_schedulers: "7ea198b469a4",
    _TrainingEpochLoop._update_learning_rates: "26ac8752d7a3",
    _AutomaticOptimization._make_backward_fn: "638ca477b275",
    _AutomaticOptimization._training_step: "72e8f9529eac",
    _AutomaticOptimization._optimizer_step: "e196b2fa15d1",
    _AutomaticOptimization._optimizer_zero_grad: "abd5876aaf91",
    _AutomaticOptimization._on_before_zero_grad: "b7f44d3a31d4",
    Precision.train_step_context: "8af7be843010",
    Precision.forward_context: "be84f4d137d2",
    Precision.pre_backward: "f94c53cfe4fc",
    Precision.post_backward: "26b545c12fad",
    Precision._after_closure: "395e946246fa",
    Precision._clip_gradients: "d517f7279607",
    Precision.clip_gradients: "3ce697562ba1",
    LightningModule.configure_gradient_clipping: "081ca8d4607d",
    LightningModule.clip_gradients: "4d123da68ed2",
    LightningModule.optimizer_step: "f07278673bfa",
    LightningModule.optimizer_zero_grad: "9edadf25870b",
    LightningModule.transfer_batch_to_device: "43187fd3cd81",
    call._call_callback_hooks: "c413fb9a6a9c",
    call._call_lightning_module_hook: "558a87d04c46",
    call._call_strategy_hook: "ff429e3ac60d",
}
"""Digests of the sources of Lightning's functions of which ours are shorter versions."""


def gone(what):
    return f"lightning {version('lightning')}: {what} has changed; adapt fedlit/client/fit/lightning_run.py"


def source(function):
    return inspect.getsource(getattr(function, "fget", None) or function)


@pytest.mark.parametrize("function", REPLACED, ids=lambda function: getattr(function, "__qualname__", "property"))
def test_the_functions_that_are_replaced_are_those_of_the_checked_version(function):
    assert hashlib.sha256(source(function).encode()).hexdigest()[:12] == REPLACED[function], gone(function)


class Draws(Quadratic):
    """A module that draws from all global generators, and records what it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_start(self):
        self.seen.append(self.w.grad)

    def validation_step(self, batch, batch_idx):
        self.seen.append(("validation", batch_idx))

    def training_step(self, batch, batch_idx):
        self.log("noise", torch.rand(()) + np.random.randn() + random.random(), on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)


class Skips(Draws):
    """Ends each epoch after one batch."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx else None


class Manual(Draws):
    """Optimizes by itself."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss, optimizer = super().training_step(batch, batch_idx), self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class HasEvalLayer(Draws):
    """Has a layer in eval mode, of which Lightning warns."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Dropout().eval()


class ClipsByItself(Draws):
    """Clips gradients that no argument of the Trainer clips."""

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, 0.01, "value")


class ReturnsNothing(Draws):
    """Skips every second batch."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 2 else super().training_step(batch, batch_idx)


class LogsInItsOptimizer(Draws):
    """Logs in a hook of the optimizer's step, and notes the names of hooks under which its methods run."""

    def configure_optimizers(self):
        optimizer, zero_grad = super().configure_optimizers(), torch.optim.Optimizer.zero_grad
        optimizer.register_step_pre_hook(lambda *_: self.seen.append(self._current_fx_name))
        optimizer.register_step_post_hook(lambda *_: self.log("steps", 1.0, reduce_fx="sum", on_epoch=True))

        def noted(*arguments, **options):
            self.seen.append(self._current_fx_name)
            zero_grad(optimizer, *arguments, **options)

        optimizer.zero_grad = noted
        return optimizer


class Batches:
    """Batches of one sort, with a length or without."""

    def __init__(self, convert):
        self.convert = convert

    def __iter__(self):
        for number in range(5):
            batch = (torch.tensor([[1.0, number], [2.0, 1.0]]), torch.zeros(2))
            yield self.convert(batch, number)


class Sized(Batches):
    def __len__(self):
        return 5


def as_tuple(batch, number):
    return batch


def as_list(batch, number):
    return list(batch)


def sometimes_none(batch, number):
    return None if number == 1 else batch


def loader():
    return DataLoader(TensorDataset(torch.arange(10.0).reshape(5, 2)), batch_size=2)


def outcome(make, module, batches, options):
    """All that a run leaves: the weight, counts, metrics, random numbers and warnings."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    Closure.warning_cache.clear()
    trainer = make(**{**QUIET, **options})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained = module()
        trained.w.grad = torch.ones(1)  # of an earlier run
        trainer.fit(
            trained, train_dataloaders=batches(), val_dataloaders=options.get("limit_val_batches", 1) and batches()
        )
    return (
        (trained.w.item(), trained.seen),
        (trainer.global_step, trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.state_dict()),
        trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.state_dict(),
        {name: value.item() for name, value in trainer.callback_metrics.items()},
        (torch.rand(1).item(), np.random.randn(), random.random()),
        sorted({str(warning.message) for warning in caught}),
    )


CASES = {
    "plain": (Draws, lambda: Sized(as_tuple), {}),
    "sanity check": (Draws, lambda: Sized(as_tuple), {"num_sanity_val_steps": 2}),
    "no validation": (Draws, lambda: Sized(as_tuple), {"limit_val_batches": 0, "num_sanity_val_steps": 0}),
    "lists": (Draws, lambda: Sized(as_list), {}),
    "none": (Draws, lambda: Sized(sometimes_none), {"limit_val_batches": 0}),
    "no length": (Draws, lambda: Batches(as_tuple), {}),
    "DataLoader": (Draws, loader, {}),
    "skips": (Skips, lambda: Sized(as_tuple), {}),
    "manual": (Manual, lambda: Sized(as_tuple), {}),
    "eval mode": (HasEvalLayer, lambda: Sized(as_tuple), {}),
    "clips by itself": (ClipsByItself, lambda: Sized(as_tuple), {}),
    "clips": (Draws, lambda: Sized(as_tuple), {"gradient_clip_val": 0.01}),
    "returns nothing": (ReturnsNothing, lambda: Sized(as_tuple), {}),
    "logs in its optimizer": (LogsInItsOptimizer, lambda: Sized(as_tuple), {"limit_val_batches": 0}),
    "accumulates": (Draws, lambda: Sized(as_tuple), {"accumulate_grad_batches": 2}),
    "few batches": (Draws, lambda: Sized(as_tuple), {"limit_train_batches": 2}),
    "one batch": (Draws, lambda: Sized(as_tuple), {"limit_train_batches": 1}),
    "validates each time": (Draws, lambda: Sized(as_tuple), {"val_check_interval": 1}),
    "half of them": (Draws, lambda: Sized(as_tuple), {"limit_train_batches": 0.5}),
    "steps": (Draws, lambda: Sized(as_tuple), {"max_epochs": -1, "max_steps": 7}),
    "overfit": (Draws, loader, {"overfit_batches": 1}),
    "validates within": (Draws, lambda: Sized(as_tuple), {"val_check_interval": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_leaves_what_lightnings_own_leaves(case):
    own, light = (outcome(make, *CASES[case]) for make in (Trainer, new_trainer))
    assert own == light


def test_a_trainer_has_the_light_classes_of_the_checked_versions_alone(monkeypatch):
    def classes():
        trainer = new_trainer(**QUIET)
        loop = trainer.fit_loop
        parts = (loop, loop.epoch_loop, loop.epoch_loop.automatic_optimization, trainer._checkpoint_connector)
        return {type(part).__name__ for part in (*parts, trainer.precision_plugin)}

    light = {"LightFitLoop", "LightEpochLoop", "LightOptimization", "LightCheckpoints", "LightPrecision"}
    assert classes() == light, gone("a part of a Trainer")
    monkeypatch.setattr(lightning_run, "IS_CHECKED", False)
    assert not classes() & light


def test_another_precision_keeps_its_class():
    trainer = new_trainer(**QUIET, precision="bf16-mixed")
    kind = type(trainer.precision_plugin)
    use_light_loops(trainer)
    assert type(trainer.precision_plugin) is kind is not Precision


def test_a_checkpoint_of_a_slurm_job_is_not_loaded(tmp_path, monkeypatch):
    """Lightning would load it into each client."""
    (tmp_path / "hpc_ckpt_1.ckpt").write_text("not a checkpoint")
    for name, value in (("SLURM_NTASKS", "1"), ("SLURM_JOB_NAME", "experiment")):
        monkeypatch.setenv(name, value)
    options = {**QUIET, "default_root_dir": str(tmp_path), "limit_val_batches": 0}
    own = Trainer(**options, plugins=[LightningEnvironment()])
    with pytest.raises(Exception, match=r"pickle|Weights only load failed|invalid load key"):
        own.fit(Quadratic(), train_dataloaders=Sized(as_tuple))
    module = Quadratic()
    new_trainer(**options).fit(module, train_dataloaders=Sized(as_tuple))
    assert module.w.item() != 0.0


def test_the_strategy_and_the_module_are_those_of_the_run():
    trainer, module = new_trainer(**QUIET), Quadratic()
    assert trainer.lightning_module is None
    assert trainer.strategy is trainer._accelerator_connector.strategy, gone("_accelerator_connector")
    trainer.fit(module, train_dataloaders=Sized(as_tuple))
    assert trainer.lightning_module is trainer.strategy.lightning_module is module, gone("_lightning_module")
