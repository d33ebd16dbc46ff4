"""What an error in a client's code is taken for."""

from __future__ import annotations

import traceback

import torch

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ClientFailure
from fedlit.simulation.faults import PlannedFailure


def classify_failure(client: int, error: Exception) -> ClientFailure:
    """What has become of a client in whose code an error arose. Only an Exception is its own: a signal that ends the run is
    none, nor is what is wrong with the configuration."""
    if isinstance(error, ConfigError | ConfigErrors):
        raise error
    if isinstance(error, PlannedFailure):
        return ClientFailure(client, "planned", str(error))
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        torch.cuda.empty_cache()
        return ClientFailure(client, "out_of_memory", _told(error))
    if (stop := _stop_behind(error)) is not None:
        raise stop from error
    return ClientFailure(client, "exception", _told(error))


def _stop_behind(error: BaseException | None) -> BaseException | None:
    """The wish to end this process that code of a client caught and made an error of; None if there was none."""
    while error is not None and (isinstance(error, Exception | GeneratorExit)):
        error = error.__cause__ or error.__context__
    return error


def _told(error: BaseException) -> str:
    """An error in one line, with the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300] + where
