"""Private APIs of Lightning around hooks, checked with lightning 2.6.6.

Hooks that nobody overrides are not called. All others see the same state in the same order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import ClosureResult, _AutomaticOptimization
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer import call
from torch import Tensor
from torch.optim import Optimizer

NO_CONTEXT = nullcontext()
HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    "on_before_optimizer_step",
)
"""Hooks of modules and callbacks that do nothing by themselves."""

STEPPING = ("optimizer_step", "optimizer_zero_grad")
CLIPPING = ("configure_gradient_clipping", "clip_gradients")
TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class LightOptimization(_AutomaticOptimization):
    """Lightning's optimization of one batch."""

    def _make_backward_fn(self, optimizer: Optimizer) -> Callable[[Tensor], None] | None:
        if self._skip_backward:
            return None
        return lambda loss: call_strategy(self.trainer, "backward", loss, optimizer)

    def _training_step(self, kwargs: OrderedDict[str, Any]) -> ClosureResult:
        trainer = self.trainer
        output = call_strategy(trainer, "training_step", *kwargs.values())
        trainer.strategy.post_training_step()
        return self.output_result_cls.from_training_step_output(output, trainer.accumulate_grad_batches)

    def _optimizer_step(self, batch_idx: int, train_step_and_backward_closure: Callable[[], Tensor | None]) -> None:
        trainer, closure = self.trainer, train_step_and_backward_closure
        if not is_own(trainer.lightning_module, "optimizer_step"):
            super()._optimizer_step(batch_idx, closure)
            return
        counts = not trainer.fit_loop._should_accumulate()
        if counts:
            self.optim_progress.optimizer.step.increment_ready()
        call_as(trainer, "optimizer_step", trainer.strategy._lightning_optimizers[0].step, closure=closure)
        if counts:
            self.optim_progress.optimizer.step.increment_completed()

    def _optimizer_zero_grad(self, batch_idx: int, optimizer: Optimizer) -> None:
        if not is_own(self.trainer.lightning_module, "optimizer_zero_grad"):
            super()._optimizer_zero_grad(batch_idx, optimizer)
            return
        call_as(self.trainer, "optimizer_zero_grad", optimizer.zero_grad)
        self.optim_progress.optimizer.zero_grad.increment_completed()

    def _on_before_zero_grad(self, optimizer: Optimizer) -> None:
        progress = self.optim_progress.optimizer.zero_grad
        progress.increment_ready()
        call_callbacks(self.trainer, "on_before_zero_grad", optimizer)
        call_module(self.trainer, "on_before_zero_grad", optimizer)
        progress.increment_started()


class LightPrecision(Precision):
    """Lightning's full precision."""

    def train_step_context(self) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Return a context that does nothing."""
        return NO_CONTEXT

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:
        """Call the hooks before the backward pass."""
        call_callbacks(module.trainer, "on_before_backward", tensor)
        call_module(module.trainer, "on_before_backward", tensor)
        return tensor

    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:
        """Call the hooks after the backward pass."""
        call_callbacks(module.trainer, "on_after_backward")
        call_module(module.trainer, "on_after_backward")
        return tensor.detach()

    def _after_closure(self, model: LightningModule, optimizer: Any) -> None:
        trainer = model.trainer
        call_callbacks(trainer, "on_before_optimizer_step", optimizer)
        call_module(trainer, "on_before_optimizer_step", optimizer)
        if trainer.gradient_clip_val is not None or not all(is_own(model, name) for name in CLIPPING):
            algorithm = trainer.gradient_clip_algorithm
            self._clip_gradients(model, optimizer, trainer.gradient_clip_val, gradient_clip_algorithm=algorithm)


class FetchedBatch:
    """A fetcher with one batch, which was fetched before.

    Args:
        fetched: batch, its index and that of its loader.
        done: True if it is the last batch of the epoch.
    """

    def __init__(self, fetched: tuple[Any, int, int], done: bool) -> None:
        self.done = done
        self._fetched = fetched

    def __next__(self) -> tuple[Any, int, int]:
        return self._fetched


def call_callbacks(trainer: Trainer, hook: str, *args: Any) -> None:
    """Call a hook of all callbacks that override it.

    Reads and sets `LightningModule._current_fx_name`; checked with lightning 2.6.6.
    """
    module = trainer.lightning_module
    outer, is_named = None, False
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not is_own(callback, hook) and callable(function := getattr(callback, hook)):
            if not is_named:
                outer, is_named = module._current_fx_name, True
                module._current_fx_name = hook
            function(trainer, module, *args)
    if is_named:
        module._current_fx_name = outer


def call_module(trainer: Trainer, hook: str, *args: Any) -> Any:
    """Call a hook of the module, if the module overrides it.

    Uses `call._call_lightning_module_hook`; checked with lightning 2.6.6.
    """
    if not is_own(trainer.lightning_module, hook):
        return call._call_lightning_module_hook(trainer, hook, *args)
    return None


def call_strategy(trainer: Trainer, hook: str, *args: Any) -> Any:
    """Call a hook of the strategy.

    It is `call._call_strategy_hook` without a profiler; checked with lightning 2.6.6.
    """
    return call_as(trainer, hook, getattr(trainer.strategy, hook), *args)


def call_as(trainer: Trainer, hook: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function under the name of a hook.

    The module's `log` needs it.
    Reads and sets `LightningModule._current_fx_name`; checked with lightning 2.6.6. After an error the name stays, as there.
    """
    module = trainer.lightning_module
    outer = module._current_fx_name
    module._current_fx_name = hook
    output = function(*args, **kwargs)
    module._current_fx_name = outer
    return output


def is_own(owner: LightningModule | Callback, hook: str) -> bool:
    """Return True if neither class nor object overrides Lightning's hook.

    Hooks are those of MODULE and CALLBACK; checked with lightning 2.6.6.
    """
    function = getattr(getattr(owner, hook), "__func__", None)
    return function is not None and function is (CALLBACK if isinstance(owner, Callback) else MODULE).get(hook)


def _own_hooks(owner: type, names: Sequence[str]) -> dict[str, Any]:
    """Return the hooks that are Lightning's own, and no other library's."""
    hooks = {name: getattr(owner, name) for name in names}
    return {name: hook for name, hook in hooks.items() if hook.__module__.startswith("lightning.")}


MODULE = _own_hooks(LightningModule, (*TRANSFERS, *STEPPING, *CLIPPING, *HOOKS))
CALLBACK = _own_hooks(Callback, HOOKS)
"""Lightning's own hooks."""
