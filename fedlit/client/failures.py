"""Classification of errors in a client's code."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from fedlit.aggregation.secure.protocol.wire import ProtocolError
from fedlit.core.errors import ConfigError, ConfigErrors, FatalClientFailure, describe_exception, user_line
from fedlit.core.messages import ClientFailure, EvalResult
from fedlit.simulation.client_faults import PlannedFailure

log = logging.getLogger("fedlit")

T = TypeVar("T")


@dataclass(frozen=True)
class FailureReports:
    """Turns errors of clients into failures, and hides texts.

    The text of an error can hold values of the client's data, such as a tensor.

    Args:
        hides_texts: True if a reason has the class and the place of an error, and not its text.
        logs_hidden: True if this process logs what is hidden, with the traceback.
    """

    hides_texts: bool = False
    logs_hidden: bool = False

    def classify(self, client: int, error: Exception) -> ClientFailure:
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
            return ClientFailure(client, "out_of_memory", self._reason(client, error))
        if (signal := _signal_behind(error)) is not None:
            raise signal from error
        return ClientFailure(client, "exception", self._reason(client, error))

    def evaluated(self, client: int | None, evaluate: Callable[[], EvalResult]) -> EvalResult:
        """Return the result of an evaluation.

        Args:
            client: the client on whose own test set it is; None for a split of the server.
            evaluate: the evaluation.

        Raises:
            FatalClientFailure: in place of the client's error, if its text is hidden.
        """
        try:
            return evaluate()
        except Exception as error:
            if client is None or not self.hides_texts:
                raise
            failure = self.classify(client, error)
        raise FatalClientFailure(f"client {client}: {failure.outcome} in its evaluation: {failure.reason}")

    def log_zeros(self, client: int, problem: str) -> None:
        """Log that a client sends zeros, if hidden facts are logged."""
        if self.logs_hidden:
            log.warning("client %d sends zeros instead of its update: %s", client, problem)

    def _reason(self, client: int, error: Exception) -> str:
        if not self.hides_texts or isinstance(error, ProtocolError):  # whose text has ids and numbers of clients
            return _describe(error)
        if self.logs_hidden:
            trace = "".join(traceback.format_exception(error)).rstrip()
            log.warning("client %d is left out:\n%s", client, trace)
        return f"{type(error).__name__} {user_line(error, with_text=False) or _library_place(error)}".rstrip()


def without_stop_iteration(take: Callable[[T], None]) -> Callable[[T], None]:
    """Return the function with an error in place of a StopIteration.

    A loop around it would take a StopIteration for its own end.
    """

    def call(reply: T) -> None:
        try:
            take(reply)
        except StopIteration as error:
            raise RuntimeError("code that adds a client's update raised StopIteration") from error

    return call


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
    place = "" if user_line(error) else _library_place(error)
    return " ".join(filter(None, (describe_exception(error).replace("\n", ", "), place)))


def _library_place(error: BaseException) -> str:
    """The innermost line of an error, such as `(functional.py:3494)`."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
