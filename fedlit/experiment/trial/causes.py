"""The cause of an error in the trial."""

from __future__ import annotations

import re
import traceback

import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fedlit.client.callbacks import LocalTrainingCallback
from fedlit.core.errors import ConfigError, describe_exception, user_line
from fedlit.data import Data
from fedlit.data.client_data import NoisyBatches
from fedlit.server.setup import Federation

TRACEBACK_HINT = "traceback=true shows where"

SHAPE_MESSAGES = re.compile(
    r"shapes cannot be multiplied|size of tensor|size mismatch|Given groups=|Expected \d|expected input|channels|shape"
)
"""What torch says of tensors whose shapes do not fit."""

CLASS_MESSAGES = re.compile(r"Target \d+ is out of bounds|Assertion `t >= 0 && t < n_classes`")
"""What torch says of a label that has no output."""


def module_name(federation: Federation) -> str:
    """The name of the module's class."""
    return type(federation.worker.replica.module).__name__


def explain_error(error: Exception, federation: Federation, data: Data) -> ConfigError:
    """The exception as an error of the part whose code raised it.

    The error has the exception, the user's line, and a hint if the cause is known.
    """
    key, value = blame(error, federation)
    facts = f"(inputs {list(data.shape)}, {len(data.classes)} classes)"
    problem = f"fails in its trial on {data.name} {facts}: {describe_exception(error)}"
    if key == "optimizer":
        key, value, problem = "model", module_name(federation), f"its {value} {problem}"
    name = {"data": data.name, "model": module_name(federation), "lightning": module_name(federation)}.get(key, value)
    hints = (known_remedy(error, key, data), TRACEBACK_HINT)
    return ConfigError("model" if key == "lightning" else key, name, problem, "; ".join(filter(None, hints)))


def known_remedy(error: Exception, key: str, data: Data) -> str:
    """Return the remedy for an exception if there is one.

    The result is an empty string for an exception of another cause.

    Args:
        error: the exception.
        key: key of the part in the configuration.
        data: data of the trial.
    """
    if isinstance(error, MisconfigurationException):
        return "Lightning needs this of the module"
    if key == "data" and not user_line(error) and SHAPE_MESSAGES.search(str(error)):
        return "give data.mean and data.std one number for each channel"
    if key == "model" and SHAPE_MESSAGES.search(str(error)):
        return f"compare the module's shapes with the inputs' {list(data.shape)}"
    if key == "model" and CLASS_MESSAGES.search(str(error)):
        return f"compare the module's number of outputs with the data's {len(data.classes)} classes"
    return ""


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
        if file.startswith(("fedlit.client.trainer.", "fedlit.client.evaluation.", "fedlit.client.losses.")):
            return "lightning", ""
        if isinstance(owner, NoisyBatches):
            return "partition", "noise"
        if isinstance(owner, torch.utils.data.Dataset | LightningDataModule) or file.startswith(
            ("fedlit.data.", "torch.utils.data.")
        ):
            return "data", ""
    return "lightning", ""
