"""Fits and modules that cannot be private, each with its reason."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from torch.optim import LBFGS, Optimizer

from fedlit.client.lightning_internals import scales_gradients
from fedlit.core.errors import ConfigError
from fedlit.core.torch_internals import is_compiled


def check_fit(trainer: Trainer, module: LightningModule) -> Optimizer:
    """Return the single optimizer of a fit that can be private.

    Raises:
        ConfigError: for several optimizers, an optimizer that needs losses, a GradScaler, a compiled module, or a callback or
            scheduler that decides by what the module logs.
    """
    name, optimizers = type(module).__name__, trainer.optimizers
    if len(optimizers) != 1:
        problem = (
            f"has {len(optimizers)} optimizers, and privacy=example clips the gradient of an example as one vector"
        )
        raise ConfigError("model", name, problem, "give all parameters to one optimizer")
    if isinstance(optimizers[0], LBFGS):
        problem = "searches along losses of the examples, which have no noise"
        raise ConfigError("model.optimizer", "LBFGS", problem, "use SGD or Adam")
    if scales_gradients(trainer):
        problem = "scales the loss by a factor that depends on the gradients, before privacy=example clips them"
        raise ConfigError("trainer.precision", trainer.precision, problem, "use bf16-mixed or 32-true")
    if compiled := [path for path, part in module.named_modules() if is_compiled(part)]:
        problem = f"is compiled, so the hooks that privacy=example needs are not called: {compiled[0] or name}"
        raise ConfigError("model", name, problem, "leave torch.compile out")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        _check_callback(type(callback).__name__, callback)
    if any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs):
        problem = "has a scheduler that follows a metric of the examples, which has no noise"
        raise ConfigError("model", name, problem, "use a scheduler that counts steps")
    return optimizers[0]


def _check_callback(name: str, callback: object) -> None:
    if isinstance(callback, EarlyStopping):
        problem = "ends a fit by a metric of the examples, which has no noise"
        raise ConfigError("trainer.callbacks", name, problem, "leave it out: the schedule sets the local work")
    if isinstance(callback, GradientAccumulationScheduler) and set(callback.scheduling.values()) != {1}:
        problem = "adds up the gradients of several batches before a step, and privacy=example accounts for each batch"
        raise ConfigError("trainer.callbacks", name, problem, "use larger batches: data.batch_size")
