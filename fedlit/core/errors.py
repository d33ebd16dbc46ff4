"""Errors in a configuration, and the exceptions that end a run.

An error has the given value, the problem, and a hint.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from fedlit.core.text.escape import print_lines, printable, short_path

T = TypeVar("T")

LIBRARIES = {
    *sys.stdlib_module_names,
    *("fedlit", "torch", "torchvision", "torchmetrics", "lightning", "lightning_utilities", "hydra", "omegaconf"),
    *("numpy", "scipy", "sklearn", "PIL", "matplotlib", "cloudpickle", "opacus"),
}
"""Packages whose lines are not a user's code."""


class ConfigError(ValueError):
    """One wrong value.

    The constructor that owns the rule raises the error. All errors are collected before round 1.

    Args:
        key: name of the argument; `prefixed` puts the configuration group in front.
        value: the given value.
        problem: the violated rule, as the end of a sentence that begins with key and value.
        hint: advice for the user.
        warning: True if a run may start all the same.
    """

    def __init__(self, key: str, value: object, problem: str, hint: str = "", *, warning: bool = False) -> None:
        self.key, self.value, self.problem, self.hint, self.warning = key, value, problem, hint, warning
        super().__init__(": ".join(filter(None, (self.subject, problem))) + (f"; {hint}" if hint else ""))

    @property
    def subject(self) -> str:
        """The key with its value, or the one that is not empty."""
        words = {None: "null", True: "true", False: "false"}  # as a configuration spells them
        value = words[self.value] if self.value is None or isinstance(self.value, bool) else str(self.value)
        return "=".join(filter(None, (self.key, value)))

    @property
    def errors(self) -> list[ConfigError]:
        """A list of this error, as ConfigErrors has one."""
        return [self]

    def prefixed(self, group: str) -> ConfigError:
        """The same error under its full name in the configuration."""
        key = f"{group}.{self.key}" if self.key else group
        return ConfigError(key, self.value, self.problem, self.hint, warning=self.warning)


class ConfigErrors(ValueError):
    """All errors of a configuration."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = list(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    def prefixed(self, group: str) -> ConfigErrors:
        """The same errors under their full names in the configuration."""
        return ConfigErrors(error.prefixed(group) for error in self.errors)


class RunFailure(RuntimeError):
    """The end of a run that can be resumed afterwards."""

    remedy = ""
    """The remedy if only a new run helps."""


class LostRounds(RunFailure):
    """Too many rounds in a row were lost."""


class LostWorkers(RunFailure):
    """Worker processes were lost so often that the run cannot continue."""


class FatalClientFailure(RunFailure):
    """A client failed, and `faults.on_error=fail` ends the run."""


class DiskFull(RunFailure):
    """The run's folder can no longer be written."""


class ErrorCollector:
    """Collect errors, so that one does not hide the next.

    Attributes:
        all: errors and warnings so far.
    """

    def __init__(self) -> None:
        self.all: list[ConfigError] = []

    @contextmanager
    def collect(self, group: str) -> Iterator[None]:
        """Collect the errors that the block raises, under their group's name.

        An empty group keeps the names of the errors.
        """
        try:
            yield
        except (ConfigError, ConfigErrors) as error:
            raised = error.prefixed(group) if group else error
            self.all += [one for one in raised.errors if one not in self.all]

    def raise_if_any(self) -> None:
        """Raise ConfigErrors if there is an error that is not a warning."""
        if errors := self.errors():
            raise ConfigErrors(errors) from next((error for error in errors if error.__cause__), None)

    def errors(self) -> list[ConfigError]:
        """The collected errors without the warnings."""
        return [error for error in self.all if not error.warning]


def print_errors(errors: Sequence[ConfigError], context: str) -> None:
    """Print errors to the standard error, one paragraph each.

    Args:
        context: end of the first line, after the number of errors.
    """
    print_lines(f"fedlit: {len(errors)} error{'s' if len(errors) != 1 else ''}{context}")
    for error in errors:
        subject = [f"  {printable(error.subject)}"] if error.subject else []
        rest = (f"      {line}" for line in (*error.problem.splitlines(), *error.hint.splitlines()))
        print_lines("\n".join([*subject, *rest]))


def print_config_errors(errors: Sequence[ConfigError], job: str = "") -> None:
    """Print the errors of a configuration to the standard error.

    If `job` is given, the configuration is that of the job.
    """
    print_errors(errors, f" in the configuration{' of ' + job if job else ''}; nothing was trained")


def describe_exception(error: BaseException) -> str:
    """Return an exception's class, its message, and the user's line.

    The first line holds at most 400 characters of the message. The second line is the user's, with file, number and text. It
    is left out if all lines are those of libraries.
    """
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    message = message if len(message) <= 400 else f"{message[:400]} ..."
    name = type(error).__name__
    return "\n".join(filter(None, (f"{name}: {message}" if message else name, user_line(error))))


def user_line(error: BaseException, with_text: bool = True) -> str:
    """Return the innermost line of user code, or its place alone.

    An example is `at net.py:7 in forward: return self.net(x)`. The result is empty if all lines are those of libraries.
    """
    if with_text and isinstance(error, SyntaxError) and error.filename:
        return _line(error.filename, error.lineno, "", (error.text or "").strip())
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        is_main_of_fedlit = str(frame.f_globals.get("__package__") or "").startswith("fedlit")
        if module.partition(".")[0] not in LIBRARIES and not is_main_of_fedlit:
            summary = traceback.FrameSummary(frame.f_code.co_filename, number, frame.f_code.co_name)
            return _line(summary.filename, number, summary.name, (with_text and summary.line) or "")
    return ""


def _line(filename: str, number: int | None, function: str, text: str) -> str:
    """Return a line of code with its place.

    A file in the current folder is named relative to it.
    """
    place = f" in {function}" if function and function != "<module>" else ""
    return f"at {short_path(Path(filename))}:{number}{place}" + (f": {text}" if text else "")


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """Return `did you mean ...?` with the most similar name.

    The result is an empty string if no name is similar.
    """
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[close[0]]}?" if close else ""


def raise_errors(*errors: ConfigError | None) -> None:
    """Raise the error, or ConfigErrors if there are several errors.

    None stands for a valid argument.
    """
    present = [error for error in errors if error is not None]
    if len(present) > 1:
        raise ConfigErrors(present)
    if present:
        raise present[0]


def require(condition: bool, key: str, value: object, problem: str, hint: str = "") -> ConfigError | None:
    """The error, unless the condition holds."""
    return None if condition else ConfigError(key, value, problem, hint)


def require_choice(key: str, value: object, names: Iterable[str]) -> ConfigError | None:
    """An error unless the value is one of the names."""
    names = list(names)
    return require(value in names, key, value, f"must be one of {', '.join(names)}", did_you_mean(value, names))


def require_positive(key: str, value: float, hint: str = "") -> ConfigError | None:
    """An error unless the value is finite and greater than 0."""
    if value == float("inf"):
        return ConfigError(key, value, "must be a finite number", hint)
    return require(value > 0, key, value, "must be greater than 0", hint)


def require_at_least(key: str, value: float, least: int = 1) -> ConfigError | None:
    """An error unless the value is at least `least`."""
    return require(value >= least, key, value, f"must be a whole number of at least {least}")


def require_instance(value: object, base: type[T], key: str, target: object, name: str) -> T:
    """Return the value if it is an instance of the base class.

    Args:
        value: the object that a configuration made.
        base: the base class of a joint.
        key: key of the error.
        target: import path that the configuration names.
        name: import path of the base class.

    Raises:
        ConfigError: if it is not an instance.
    """
    if not isinstance(value, base):
        problem = f"makes a {type(value).__name__}, which is not a {name}"
        raise ConfigError(key, target, problem, f"make its class a subclass of {name}")
    return value
