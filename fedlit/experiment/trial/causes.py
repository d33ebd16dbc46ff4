"""The cause of an error in the trial."""

from __future__ import annotations

import traceback

import torch
from lightning.pytorch import Callback

from fedlit.client.callbacks import LocalTrainingCallback
from fedlit.core.errors import ConfigError
from fedlit.data import Data
from fedlit.data.client_data import NoisyBatches
from fedlit.server.setup import Federation

TRACEBACK_HINT = "traceback=true shows where"


def module_name(federation: Federation) -> str:
    """The name of the module's class."""
    return type(federation.worker.replica.module).__name__


def explain_error(error: Exception, federation: Federation, data: Data) -> ConfigError:
    """The exception as an error of the part whose code raised it."""
    key, value = blame(error, federation)
    batch = f"a batch of {data.name} (inputs {list(data.shape)}, {len(data.classes)} classes)"
    problem, module = f"fails on {batch}: {type(error).__name__}: {error}".splitlines()[0], module_name(federation)
    if key == "data":
        return ConfigError(key, data.name, problem, f"check mean, std and augment; {TRACEBACK_HINT}")
    if key == "optimizer":
        return ConfigError("model", module, f"its {value} {problem}", f"use other values; {TRACEBACK_HINT}")
    if key == "lightning":
        return ConfigError("model", module, problem, f"Lightning or torch needs this of the module; {TRACEBACK_HINT}")
    if key == "model":
        hint = f"give the model the data's input shape and classes; {TRACEBACK_HINT}"
        return ConfigError(key, module, problem, hint)
    return ConfigError(key, value, problem, TRACEBACK_HINT)


def blame(error: Exception, federation: Federation) -> tuple[str, str]:
    """Find the part with the innermost frame of an exception.

    Returns:
        The key and the name of the part.
    """
    algorithm, parts = federation.algorithm, {id(part) for part in federation.worker.replica.module.modules()}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        owner, file = frame.f_locals.get("self"), f"{frame.f_globals.get('__name__', '')}."
        ours = ("fedlit.algorithms.", "fedlit.experiment.trial.first_step.")
        if owner is algorithm or isinstance(owner, LocalTrainingCallback) or file.startswith(ours):
            return "algorithm", type(algorithm).__name__
        if isinstance(owner, Callback):
            return "trainer.callbacks", type(owner).__name__
        if isinstance(owner, torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler):
            return "optimizer", type(owner).__name__
        if id(owner) in parts:
            return "model", ""
        if file.startswith("fedlit.client.trainer."):
            return "lightning", ""
        if isinstance(owner, NoisyBatches):
            return "partition", "noise"
        if isinstance(owner, torch.utils.data.Dataset) or file.startswith(("fedlit.data.", "torch.utils.data.")):
            return "data", ""
    return "lightning", ""
