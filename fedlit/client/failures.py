"""Classification of errors in a client's code."""

from __future__ import annotations

import traceback

import torch

from fedlit.core.errors import ConfigError, ConfigErrors, describe_exception, user_line
from fedlit.core.messages import ClientFailure
from fedlit.simulation.client_faults import PlannedFailure


def classify_failure(client: int, error: Exception) -> ClientFailure:
    """Return the failure of a client whose code raised an error.

    Args:
        client: ID of the client.
        error: error that the code of the client raised.

    Raises:
        ConfigError, ConfigErrors: the error itself if the configuration is at fault, not the client.
        BaseException: the signal to end this process, if the client's code caught it and raised `error` instead.
    """
    if isinstance(error, ConfigError | ConfigErrors):
        raise error
    if isinstance(error, PlannedFailure):
        return ClientFailure(client, "planned", str(error))
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        torch.cuda.empty_cache()
        return ClientFailure(client, "out_of_memory", _describe(error))
    if (signal := _signal_behind(error)) is not None:
        raise signal from error
    return ClientFailure(client, "exception", _describe(error))


def _signal_behind(error: BaseException | None) -> BaseException | None:
    """Return the signal to end this process behind an error, or None.

    The signal is the first cause in the error's chain that is not an Exception.
    """
    while error is not None and (isinstance(error, Exception | GeneratorExit)):
        error = error.__cause__ or error.__context__
    return error


def _describe(error: BaseException) -> str:
    """Return an error in one line, with the line that raised it.

    It is the user's innermost line, or that of a library if there is none.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return describe_exception(error).replace("\n", ", ") + ("" if user_line(error) else place)
