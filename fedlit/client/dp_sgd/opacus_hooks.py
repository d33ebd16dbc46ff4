"""Opacus: hooks for the gradients of examples. No other file imports it.

Opacus is an optional library: pip install 'fedlit[dp]'.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from fedlit.core.errors import ConfigError

__all__ = ["DPOptimizer", "LayerHooks", "check_layers", "hook_layers", "remove_attributes"]


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep the root logger's handlers: the import of Opacus adds one."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.addHandler(logging.NullHandler())  # so that basicConfig does nothing
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


try:
    with _own_logging():
        from opacus.grad_sample.grad_sample_module import GradSampleHooks
        from opacus.optimizers import DPOptimizer
        from opacus.validators import ModuleValidator
except ImportError as error:
    raise ConfigError("privacy", "example", "needs Opacus", "pip install 'fedlit[dp]'") from error


def check_layers(module: LightningModule) -> None:
    """Raise ConfigError for a layer that mixes examples or is unknown."""
    for path, part in module.named_modules():
        validate = ModuleValidator.VALIDATORS.get(type(part))
        trained = any(parameter.requires_grad for parameter in part.parameters(recurse=False))
        if validate is not None and trained and (found := validate(part)):
            problem = (
                f"has {path} ({type(part).__name__}), which privacy=example cannot train: {_first_sentence(found[0])}"
            )
            hint = "use GroupNorm or LayerNorm for a BatchNorm, and opacus.layers for recurrent and attention layers"
            raise ConfigError("model", type(module).__name__, problem, hint)


def _first_sentence(error: Exception) -> str:
    return str(error).partition(". ")[0].rstrip(".")


class LayerHooks(GradSampleHooks):
    """Hooks of a LightningModule's layers, not of the module itself.

    `training_step` does not call the module's own `forward`, so parameters of the module itself belong to no layer.
    """

    def iterate_submodules(self, module: nn.Module) -> Iterator[nn.Module]:
        """Yield the layers to hook."""
        for part in module.children() if module is self._module else (module,):
            yield from super().iterate_submodules(part)

    def rearrange_grad_samples(self, **arguments: Any) -> tuple[Any, Tensor]:
        """Return a layer's inputs and its output's gradients, in plain memory.

        Opacus 1.6 computes wrong gradients of a convolution whose inputs are channels-last.
        """
        inputs, gradients = super().rearrange_grad_samples(**arguments)
        return [tensor.contiguous() for tensor in inputs], gradients.contiguous()


def hook_layers(module: LightningModule) -> LayerHooks:
    """Hook the layers of a module.

    Raises:
        ConfigError: for a layer that mixes examples, or of which Opacus has no gradients.
    """
    check_layers(module)
    try:
        return LayerHooks(module, strict=False)
    except NotImplementedError as error:  # a layer with buffers, or an EmbeddingBag
        problem = f"has a layer of which Opacus cannot compute the gradient of each example: {error}"
        raise ConfigError("model", type(module).__name__, problem, "use layers of torch.nn without buffers") from error


def remove_attributes(module: nn.Module) -> None:
    """Remove what Opacus leaves on layers and parameters, also after an exception."""
    for part in module.modules():
        for name in ("activations", "max_batch_len", "ft_compute_sample_grad", "autograd_grad_sample_hooks"):
            vars(part).pop(name, None)
    for parameter in module.parameters():
        vars(parameter).pop("summed_grad", None)
