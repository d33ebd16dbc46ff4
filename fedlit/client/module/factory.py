"""A federation's module, from a user's module or factory."""

from __future__ import annotations

import copy
from collections.abc import Callable

from lightning.pytorch import LightningModule
from torch import nn

from fedlit.core.errors import ConfigError

ModuleSource = LightningModule | Callable[[], LightningModule]
"""A module, which is copied, or a function or class that makes one without arguments."""


def make_module(source: ModuleSource) -> LightningModule:
    """Return a module that belongs to the caller alone.

    Args:
        source: a module, of which a copy is returned; or a class or function that makes a module.

    Raises:
        ConfigError: if `source` is neither, or the module cannot be copied.
    """
    name = type(source).__name__
    if isinstance(source, LightningModule):
        try:
            return copy.deepcopy(source)
        except Exception as error:  # user code decides what a copy does
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            hint = f"give a function that makes it: model=lambda: {name}(...)"
            raise ConfigError("model", name, f"cannot be copied: {reason}", hint) from error
    if isinstance(source, nn.Module):
        problem = "is a torch.nn.Module, and clients train a LightningModule"
        raise ConfigError("model", name, problem, "give it a training_step and configure_optimizers")
    if not callable(source):
        hint = "give a LightningModule, or a function that makes one"
        raise ConfigError("model", name, "is neither a LightningModule nor callable", hint)
    module = source()
    if not isinstance(module, LightningModule):
        problem = f"makes a {type(module).__name__}, and clients train a LightningModule"
        raise ConfigError("model", getattr(source, "__name__", name), problem)
    return module
