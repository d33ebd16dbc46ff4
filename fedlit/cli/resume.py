"""`resume=RUN`: combine a run's overrides with the current command line.

A run's folder may come from anybody. None of its overrides of Hydra's own keys are used. Unless the run is this user's own, its
overrides have no interpolation, and every name that its configuration calls is on the allow-list or repeated in the command.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra import compose
from hydra.errors import HydraException

from fedlit.cli.command_line import PRIMARY, config_loader, parse_command
from fedlit.cli.hydra_internals import parse_arguments
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.text.escape import shell_command
from fedlit.experiment.config.optimizer import run_values
from fedlit.experiment.config.trust.allowlist import ALLOW_VARIABLE, repeat_hint, untrusted_targets
from fedlit.experiment.config.trust.foreign_command import foreign_command_errors
from fedlit.runs.commands import quote, quote_if_needed, unquote
from fedlit.runs.folder import InvalidRun, is_finished, read_command, read_config, require_files
from fedlit.runs.keys import changed_values, row_of
from fedlit.runs.layout import COMMAND, CONFIG, JOURNAL, LOCK
from fedlit.runs.origin import is_own_run
from fedlit.server.checkpoint.folders import committed_rounds


def resume_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the command line that resumes the run of `resume=RUN`.

    Args:
        arguments: the current command line; returned unchanged if it names no run.

    Raises:
        ConfigErrors: if there is no such run, or an override differs in a key that cannot change on resume.
    """
    parsed = parse_arguments(arguments)
    overrides = [text for text in parsed.overrides if _key(text) != "resume"]
    names = [unquote(text) for text in parsed.overrides if _key(text) == "resume"]
    if not names or names[-1] in ("", "null"):
        return list(arguments)
    if parsed.multirun:
        raise ConfigErrors([ConfigError("resume", names[-1], "resumes one run, and -m starts several", "leave out -m")])
    flags = [argument for argument in arguments if argument not in parsed.overrides]
    folders = [Path(unquote(text)) for text in overrides if _key(text) == "hydra.run.dir"]
    primary, old, both = parsed.config_name or PRIMARY, [], overrides
    try:
        with config_loader(parsed.config_dir):
            folder = _find_run(names[-1], folders, primary, overrides)
            if folder is None:
                return [*flags, *overrides]  # no run to resume: a new one starts
            old, old_flags = _load_command(folder)
            _require_flags(old_flags, parsed.config_dir, parsed.config_name)
            both = _combine(old, overrides)
            is_own = is_own_run(folder)
            if errors := [] if is_own else foreign_command_errors(folder, [text for text in old if text in both]):
                raise ConfigErrors(errors)  # before the overrides are composed, which would compute interpolations
            new = run_values(compose(primary, both), both)
            if not is_own:
                _require_trusted_names(new, overrides)
            _require_same_run(folder, new)
    except HydraException as error:
        problem = f"cannot be composed again: {str(error).splitlines()[0]}"
        default = [ConfigError("resume", names[-1], problem, "if the run had a --config-dir, give it again")]
        unchanged = {text for text in old if text in both}
        errors = parse_command([*flags, *both]).errors
        raise ConfigErrors(
            [_in_old_command(e) if f"{e.key}={e.value}" in unchanged else e for e in errors] or default
        ) from error
    return [*flags, *both, f"resume={quote(folder)}", f"hydra.run.dir={quote(folder)}"]


def _find_run(name: str, folders: Sequence[Path], primary: str, overrides: Sequence[str]) -> Path | None:
    """The folder of the run to resume; None if `auto` finds none.

    Args:
        name: the value of `resume`: a run's folder, or `auto`.
        folders: the values of `hydra.run.dir` in the command line.
        primary: name of the primary configuration.
        overrides: the command-line overrides without `resume`.

    Raises:
        ConfigErrors: if the folder of `hydra.run.dir` is not that of the run.
    """
    if name == "auto":
        config = run_values(compose(primary, [t for t in overrides if not _key(t).startswith("hydra")]), overrides)
        if not folders:
            return _newest_unfinished(config)
        folder = folders[-1].expanduser().absolute()
        require_files(folder, (), "hydra.run.dir", "")
        if not all((folder / file).is_file() for file in (COMMAND, CONFIG)):
            return None
        if errors := _change_errors(_read_config(folder), config):
            raise ConfigErrors(errors)
        return folder
    folder = Path(name).expanduser().absolute()
    require_files(folder, (), "resume", "name the folder of a run, or auto")
    if folders and folders[-1].absolute() != folder:
        problem = f"is not {folder}, the folder of the run to resume"
        raise ConfigErrors([ConfigError("hydra.run.dir", folders[-1], problem, "leave it out")])
    return folder


def _combine(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """The run's overrides, replaced and extended by the command line's.

    A new choice of a group that can change also replaces the old overrides of keys in the group.
    """
    keys = {_key(text) for text in new}

    def is_replaced(key: str) -> bool:
        return key in keys or (row_of(key).can_change and key.partition(".")[0] in keys)

    return [text for text in old if not is_replaced(_key(text))] + [t for t in new if _key(t) != "hydra.run.dir"]


def _load_command(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Read the command of a run.

    Returns:
        The overrides without those of Hydra's own keys and of `resume`, and the values of the flags.
    """
    for name in (COMMAND, CONFIG):
        if not (folder / name).is_file():
            problem, hint = f"has no {name}", "name the folder of a run, or auto"
            if folder.is_dir() and not committed_rounds(folder):
                problem, hint = f"{problem} and no checkpoint", f"{hint}; or give the run's whole command again"
            raise ConfigErrors([ConfigError("resume", folder, problem, hint)])
    try:
        command = read_command(folder)
        keys = {text: _key(text).split("/")[0].split(".")[0] for text in command["overrides"]}
        if invalid := [text for text in keys if text.startswith("-")]:
            raise ValueError(f"{invalid[0]} is not an override")
        flags = {flag.partition("=")[0]: flag.partition("=")[2] for flag in command.get("flags", ())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.problem if isinstance(error, InvalidRun) else error
        problem = f"has a {COMMAND} that fedlit did not write: {reason}"
        raise ConfigErrors([ConfigError("resume", folder, problem, "name the folder of a run")]) from error
    return [text for text, key in keys.items() if key not in ("hydra", "resume")], flags


def _require_flags(old: Mapping[str, str], folder: str | None, name: str | None) -> None:
    """Raise ConfigErrors if the command line lacks a flag of the run.

    No flag is taken from the run's folder: the folder would decide which configuration is read.
    """
    new = {"--config-dir": folder, "--config-name": name}
    errors = [
        ConfigError(flag, "", f"was {old[flag]} when the run began, and is missing now", f"add {flag}={old[flag]}")
        for flag, value in new.items()
        if flag in old and value is None
    ]
    if errors:
        raise ConfigErrors(errors)


def _in_old_command(error: ConfigError) -> ConfigError:
    """The error with a hint for an override of the run."""
    hint = "the run began with it: give the --config-dir that has it again"
    return ConfigError(error.key, error.value, error.problem, hint)


def _require_trusted_names(config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raise ConfigErrors for untrusted names and arguments, unless repeated."""
    names = [unquote(text) for text in overrides if _key(text).endswith(("_target_", ".network"))]
    keys = {_key(text) for text in overrides}
    if errors := [e for e in untrusted_targets(config, (), names) if e.key not in keys]:
        raise ConfigErrors(ConfigError(e.key, e.value, e.problem, repeat_hint(e)) for e in errors)


def _require_same_run(folder: Path, new: Mapping[str, Any]) -> None:
    """Raise ConfigErrors for values that differ and cannot change on resume."""
    old = _read_config(folder)
    errors, rounds = _change_errors(old, new), new["schedule"]["rounds"]
    journal = folder / JOURNAL
    num_done = journal.read_bytes().count(b"\n") if journal.is_file() else 0
    if isinstance(rounds, int) and rounds < num_done and rounds != (old.get("schedule") or {}).get("rounds"):
        problem = f"is less than the {num_done} rounds done"
        errors.append(ConfigError("schedule.rounds", rounds, problem, "give a larger number, or leave it out"))
    if errors:
        raise ConfigErrors(errors)


def _change_errors(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ConfigError]:
    """Return an error for every changed value that cannot change on resume."""
    errors = [
        ConfigError(key, now, f"was {before} when the run began", "leave it out, or start another run")
        for key, (before, now) in changed_values(old, new).items()
        if not row_of(key).can_change
    ]
    schedule, rounds = old.get("schedule") or {}, new["schedule"]["rounds"]
    if schedule.get("rounds") != rounds and schedule.get("lr") == "cosine":
        problem = f"was {schedule.get('rounds')}; with schedule.lr=cosine past learning rates depend on it"
        errors.append(ConfigError("schedule.rounds", rounds, problem, "leave it out"))
    return errors


def _read_config(folder: Path) -> Mapping[str, Any]:
    """Read the configuration of a run, or raise ConfigErrors."""
    try:
        return read_config(folder)
    except InvalidRun as error:
        problem = f"has a {CONFIG} that fedlit did not write: {error.problem}"
        raise ConfigErrors([ConfigError("resume", folder, problem, "name the folder of a run")]) from error


def _newest_unfinished(config: Mapping[str, Any]) -> Path | None:
    """The newest unfinished, unlocked run of a configuration; None without one."""
    paths = Path("outputs/runs").glob(f"*/*/{CONFIG}")
    for path in sorted(filter(Path.is_file, paths), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(ConfigErrors):  # the folder is not of a run
            if is_finished(path.parent) or _change_errors(_read_config(path.parent), config):
                continue
            if (path.parent / LOCK).is_symlink():
                continue
            with suppress(OSError), FileLock(path.parent / LOCK, timeout=0):  # locked, or read-only
                return path.parent.absolute()
    return None


def _key(text: str) -> str:
    """The key of an override, without +, ~ and a package."""
    return text.partition("=")[0].lstrip("+~").partition("@")[0]


def resume_command(folder: Path, config: Mapping[str, Any], flags: Sequence[str] = ()) -> str:
    """Return the command that resumes a run.

    For a run that is not remembered, it allows the user's modules and repeats arguments.

    Args:
        folder: the run's folder.
        config: the run's configuration as plain values.
        flags: the flags of `command_line.config_flags`.
    """
    errors = [] if is_own_run(folder) else untrusted_targets(config)
    modules = {str(error.value).partition(".")[0] for error in errors if error.hint}
    modules |= {*filter(None, os.environ.get(ALLOW_VARIABLE, "").split(","))}
    allow = f"{ALLOW_VARIABLE}={','.join(sorted(modules))} " if modules else ""
    words = [f"{error.key}={quote_if_needed(error.value)}" for error in errors if not error.hint]
    return allow + shell_command(["python", "-m", "fedlit.train", *flags, *words, f"resume={quote_if_needed(folder)}"])
