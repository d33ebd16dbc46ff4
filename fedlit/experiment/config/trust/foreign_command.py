"""The command of a run from elsewhere, checked before `resume=RUN` repeats it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep

from fedlit.core.errors import ConfigError
from fedlit.experiment.config.trust.interpolations import interpolation_errors
from fedlit.runs.origin import find_link


def foreign_command_errors(folder: Path, overrides: Sequence[str]) -> list[ConfigError]:
    """Return the errors before anything is composed or written.

    Args:
        folder: folder of the run. A link in it is an error: the run would write through it.
        overrides: the run's own overrides. A resolver is an error, and so is a group in Hydra's own part. Each is parsed, since
            an escaped brace becomes a brace.

    Raises:
        HydraException: if Hydra cannot read an override.
    """
    errors: list[ConfigError] = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        values = {override.key_or_group: value.list if isinstance(value, ChoiceSweep) else value}
        errors += interpolation_errors(values, allow_references=True)
        if "hydra" in (override.package or "").split("."):
            errors.append(
                ConfigError(str(override.input_line), "", "sets Hydra's own part in a command from elsewhere")
            )
    if (link := find_link(folder)) is not None:
        problem = "is a link or a special file, and the run would write through it"
        errors.append(ConfigError("resume", link, problem, "remove it, or copy what it leads to"))
    return errors
