"""Modules, Trainers and data that cannot train as a stack."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from fedlit.client.lightning_internals import overrides, own_attributes
from fedlit.core.errors import ConfigError, describe_exception, user_line

HINT = "use executor=processes"
PRECISIONS = (None, "32-true", "64-true", 32, 64)
"""Values of `precision` in which a stack trains."""

OTHER_HOOKS = (
    *("optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", "backward", "configure_gradient_clipping"),
    *("configure_callbacks", "prepare_data", "teardown", "transfer_batch_to_device"),
)
EVALUATION = ("on_validation", "on_test", "on_predict", "on_save_checkpoint", "on_load_checkpoint")

REASONS = {
    "calling .item()": "reads the value of a tensor (by item(), float(), an if or a print), and each client has its own value",
    "data-dependent control flow": "branches on the value of a tensor, and each client has its own value",
    "dynamic": "has a tensor whose shape depends on the data",
    "inplace arithmetic": "changes a tensor in place that all clients of a stack share",
    "mutate a captured Tensor": "changes a tensor in place that all clients of a stack share",
}
"""What a message of torch means for the module, by words of the message."""


def static_errors(module: LightningModule, config: Any, num_workers: int) -> list[ConfigError]:
    """Return the errors that show before a step runs.

    Args:
        module: the module.
        config: settings of the clients' Trainers, a `TrainerConfig`.
        num_workers: processes that load the samples of a client.
    """
    return [
        *_module_errors(module),
        *_trainer_errors(config),
        *([] if not num_workers else [_error("data.num_workers", num_workers, LOADERS, "set data.num_workers=0")]),
    ]


LOADERS = "would start these processes for each client of a group at once, under executor=vectorized"


def slow_layers(module: nn.Module) -> list[ConfigError]:
    """Return the error of layers that are slower as a stack.

    On a CPU these are convolutions.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    layer = next((path for path, part in module.named_modules() if isinstance(part, kinds)), None)
    problem = f"has the convolution {layer}, which is slower for several clients at once on a CPU"
    return [] if layer is None else [_error("model", type(module).__name__, problem)]


def _module_errors(module: LightningModule) -> Iterator[ConfigError]:
    name = type(module).__name__
    if not module.automatic_optimization:
        problem = "uses manual optimization, whose steps cannot run for several clients at once"
        yield _error("model", name, problem)
    functions = [name for name, _ in inspect.getmembers(LightningModule, inspect.isfunction)]
    hooks = [hook for hook in functions if hook.startswith("on_") and not hook.startswith(EVALUATION)]
    for hook in (*hooks, *OTHER_HOOKS):
        if overrides(module, hook):
            problem = f"has a hook {hook}{_place(getattr(module, hook))}, which would see several clients at once"
            yield _error("model", name, problem)


def _trainer_errors(config: Any) -> Iterator[ConfigError]:
    for callback in config.callbacks():
        problem = "would see the module of several clients at once, under executor=vectorized"
        yield _error("trainer.callbacks", type(callback).__name__, problem)
    if (precision := config.options.get("precision")) not in PRECISIONS:
        problem = "is not available under executor=vectorized, which trains in 32-true or 64-true"
        yield _error("trainer.precision", precision, problem)
    if config.privacy is not None:
        yield _error("privacy", "example", "clips each example's gradient, which a stack of clients does not offer")
    if config.options.get("detect_anomaly"):
        yield _error("trainer.detect_anomaly", True, "cannot follow several clients at once")


def _error(key: str, value: object, problem: str, hint: str = HINT) -> ConfigError:
    return ConfigError(key, value, problem, hint)


def _place(function: Callable[..., Any]) -> str:
    """Return file and line of a function in brackets.

    The result is empty if they are not known.
    """
    try:
        file, (_, line) = inspect.getsourcefile(function) or "", inspect.getsourcelines(function)
    except (OSError, TypeError):
        return ""
    return f" ({file.rpartition('/')[2]}:{line})"


def explain(error: Exception, module: LightningModule) -> ConfigError:
    """Return the error of a module whose stacked step fails."""
    text, place = str(error), user_line(error)
    reason = next((reason for words, reason in REASONS.items() if words in text), None)
    name = type(module).__name__
    if reason is None:
        problem = f"fails when several clients train as one stacked model: {describe_exception(error)}"
    else:
        problem = f"{reason}{f', {place}' if place else ''}"
    found = _error("model", name, problem)
    found.__cause__ = error
    return found


@contextmanager
def refuse_new_state(module: LightningModule) -> Iterator[None]:
    """Refuse a module whose attributes change inside the block.

    Each client of a stack would see the changes of the others.

    Raises:
        ConfigError: naming the first attribute.
    """
    before = _attributes(module)
    yield
    after = _attributes(module)
    if changed := [path for path in after if path not in before or before[path] != after[path]]:
        problem = f"changes self.{changed[0]} in training_step, which all clients of a stack would share"
        raise _error("model", type(module).__name__, problem)


def _attributes(module: nn.Module) -> Mapping[str, Any]:
    """Return identity and length of each attribute, by path."""
    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        if not isinstance(part, Metric) and not type(part).__module__.startswith("torch."):
            for name, value in vars(part).items():
                if name not in own_attributes():
                    length = len(value) if isinstance(value, Sequence | Mapping | set) else None
                    found[f"{path}.{name}".lstrip(".")] = (id(value), length)
    return found
