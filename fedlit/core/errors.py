"""What is wrong with a configuration: what was given, what is allowed, what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class ConfigError(ValueError):
    """One wrong value. Raised by the constructor that owns the rule; collected before round 1.

    Args:
        key: the argument's name; `within` puts the configuration group in front of it.
        given: the value as it was given.
        allowed: what would have been accepted.
        remedy: what to do.
        warning: whether a run may begin all the same.
    """

    def __init__(self, key: str, given: object, allowed: str, remedy: str = "", *, warning: bool = False) -> None:
        self.key, self.value, self.problem, self.hint, self.warning = key, given, allowed, remedy, warning
        super().__init__(f"{key}={given}: {allowed}" + (f"; {remedy}" if remedy else ""))

    @property
    def errors(self) -> list[ConfigError]:
        """This one, as Mistakes have several."""
        return [self]

    def prefixed(self, group: str) -> ConfigError:
        """The same mistake under its full name in the configuration."""
        key = f"{group}.{self.key}" if self.key else group
        return ConfigError(key, self.value, self.problem, self.hint, warning=self.warning)


class ConfigErrors(ValueError):
    """Everything that is wrong with a configuration, found in one go."""

    def __init__(self, found: Iterable[ConfigError]) -> None:
        self.errors = list(found)
        super().__init__("\n".join(str(mistake) for mistake in self.errors))

    def prefixed(self, group: str) -> ConfigErrors:
        """The same mistakes under their full names in the configuration."""
        return ConfigErrors(mistake.prefixed(group) for mistake in self.errors)


def print_errors(mistakes: Sequence[ConfigError], said: str) -> None:
    """Prints mistakes, a paragraph each, to the standard error.

    Args:
        mistakes: all that there are.
        said: what follows their number: what they are in, and what was not done for them.
    """
    print(f"fedlit: {len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}{said}", file=sys.stderr)
    for mistake in mistakes:
        named = mistake.key and mistake.value != ""
        print(f"  {f'{mistake.key}={mistake.value}' if named else mistake.key or mistake.value}", file=sys.stderr)
        print(f"      {mistake.problem}", file=sys.stderr)
        if mistake.hint:
            print(f"      {mistake.hint}", file=sys.stderr)


def did_you_mean(word: object, names: Iterable[str]) -> str:
    """`did you mean ...?` with the most similar of the names, or an empty string."""
    close = get_close_matches(str(word).lower(), [*names], n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def raise_errors(*found: ConfigError | None) -> None:
    """Ends a constructor's look at its arguments: raises the mistake that was found, or Mistakes if there are several. None is
    an argument that is right."""
    wrong = [mistake for mistake in found if mistake is not None]
    if len(wrong) > 1:
        raise ConfigErrors(wrong)
    if wrong:
        raise wrong[0]


def require(holds: bool, key: str, given: object, allowed: str, remedy: str = "") -> ConfigError | None:
    """The mistake, unless what is asked of the value holds."""
    return None if holds else ConfigError(key, given, allowed, remedy)


def require_choice(key: str, given: object, names: Iterable[str]) -> ConfigError | None:
    """A mistake unless `given` is one of the names."""
    names = list(names)
    return require(given in names, key, given, f"must be one of {', '.join(names)}", did_you_mean(given, names))


def require_positive(key: str, given: float, remedy: str = "") -> ConfigError | None:
    """A mistake unless `given` is a finite number above zero."""
    return require(0 < given < float("inf"), key, given, "must be a number above 0", remedy)


def require_at_least(key: str, given: float, least: int = 1) -> ConfigError | None:
    """A mistake unless `given` is at least `least`."""
    return require(given >= least, key, given, f"must be a whole number of at least {least}")


class LostRounds(RuntimeError):
    """Too many rounds in a row were lost."""


class LostWorkers(RuntimeError):
    """Worker processes were lost so often that the run cannot go on."""


def print_config_errors(mistakes: Sequence[ConfigError], of: str = "") -> None:
    """Prints what is wrong with a configuration, or a job's, to the standard error."""
    print_errors(mistakes, f" in the configuration{' of ' + of if of else ''}; nothing was trained")
