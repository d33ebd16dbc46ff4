"""`resume=RUN`: what was typed for a run, and what is typed now, as one command line.

A run's folder may come from anybody: of what was typed for it nothing is taken that is Hydra's own, and what its configuration
names has to be on the list of `trust`, or be typed again.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException

from fedlit.cli.command_line import PRIMARY, config_loader, parse_command, quote, unquote
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.files import flatten
from fedlit.experiment.config.allowlist import ALLOW_VARIABLE, untrusted_targets
from fedlit.experiment.config.build import to_plain
from fedlit.runs.layout import COMMAND, JOURNAL
from fedlit.server.checkpoint.format import committed_rounds

MAY_CHANGE = (
    "schedule.rounds",
    "executor",
    "observers",
    "checkpoint",
    "sweep",
    "faults.max_lost_rounds",
    "trainer.accelerator",
    "check",
    "traceback",
    "resume",
)
"""Keys that a run may be gone on with otherwise, with all below them; of `executor` not the threads, on which bits depend."""


def resume_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line that goes on with the run that `resume` names; the same one where it names none.

    Raises:
        Mistakes: if there is no such run, or something was typed that differs and may not.
    """
    typed = get_args_parser().parse_args(list(arguments))
    overrides = [text for text in typed.overrides if _key(text) != "resume"]
    asked = [unquote(text) for text in typed.overrides if _key(text) == "resume"]
    if not asked or asked[-1] in ("", "null"):
        return list(arguments)
    if typed.multirun:
        raise ConfigErrors(
            [ConfigError("resume", asked[-1], "goes on with one run, and -m begins several", "leave out -m")]
        )
    kept = [argument for argument in arguments if argument not in typed.overrides]
    where = [Path(unquote(text)) for text in overrides if _key(text) == "hydra.run.dir"]
    name, before, both = typed.config_name or PRIMARY, [], overrides
    try:
        with config_loader(typed.config_dir):
            folder = _folder(asked[-1], where, name, overrides)
            if folder is None:
                return [*kept, *overrides]  # nothing to go on with: it begins
            before, flags = _typed_before(folder)
            _refuse_without(flags, typed.config_dir, typed.config_name)
            both = _joined(before, overrides)
            _refuse_changes(folder, to_plain(compose(name, both)), overrides)
    except HydraException as error:
        why, remedy = str(error).splitlines()[0], "a --config-dir has to be typed again"
        rest = [ConfigError("resume", asked[-1], f"cannot be composed as it was: {why}", remedy)]
        old = {text for text in before if text in both}
        found = parse_command([*kept, *both]).errors
        raise ConfigErrors([_of_before(m) if f"{m.key}={m.value}" in old else m for m in found] or rest) from error
    return [*kept, *both, f"resume={quote(folder)}", f"hydra.run.dir={quote(folder)}"]


def _folder(asked: str, where: Sequence[Path], name: str, overrides: Sequence[str]) -> Path | None:
    """The run's folder; None if `auto` finds nothing to go on with. Raises Mistakes if `auto` is to go on in a folder that has
    another run."""
    if asked == "auto":
        config = to_plain(compose(name, [text for text in overrides if not _key(text).startswith("hydra")]))
        if not where:
            return _newest(config)
        folder = where[-1].expanduser().absolute()
        if not all((folder / file).is_file() for file in (COMMAND, "config.yaml")):
            return None
        if found := _changes(_config(folder), config):
            raise ConfigErrors(found)
        return folder
    folder = Path(asked).expanduser().absolute()
    if where and where[-1].absolute() != folder:
        why = f"is not {folder}, where the run is that is gone on with"
        raise ConfigErrors([ConfigError("hydra.run.dir", where[-1], why, "leave it out")])
    return folder


def _joined(before: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What was typed for a run and is not typed otherwise now, and what is typed now. Another choice of a group that may
    change comes without what was typed for the choice before."""
    now = {_key(text) for text in overrides}

    def stays(key: str) -> bool:
        return key not in now and not (may_change(key) and key.partition(".")[0] in now)

    return [text for text in before if stays(_key(text))] + [t for t in overrides if _key(t) != "hydra.run.dir"]


def _typed_before(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The overrides that were typed for a run, but for what is Hydra's, and the flags."""
    for name in (COMMAND, "config.yaml"):
        if not (folder / name).is_file():
            why, remedy = f"has no {name}", "name the folder of a run, or auto"
            if folder.is_dir() and not committed_rounds(folder):
                why, remedy = f"{why} and no round that was kept", f"{remedy}; or type the run's whole command again"
            raise ConfigErrors([ConfigError("resume", folder, why, remedy)])
    try:
        command = json.loads((folder / COMMAND).read_bytes())
        keys = {text: _key(text).split("/")[0].split(".")[0] for text in command["overrides"]}
        if wrong := [text for text in keys if text.startswith("-")]:
            raise ValueError(f"{wrong[0]} is no override")
        flags = {flag.partition("=")[0]: flag.partition("=")[2] for flag in command.get("flags", ())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigErrors(
            [ConfigError("resume", folder, f"has a {COMMAND} that is not one of ours: {error}")]
        ) from error
    return [text for text, key in keys.items() if key not in ("hydra", "resume")], flags


def _refuse_without(flags: Mapping[str, str], folder: str | None, name: str | None) -> None:
    """Raises Mistakes if a flag with which the run began is not typed. None is taken from the run's folder: it would say
    whose configuration is read."""
    typed = {"--config-dir": folder, "--config-name": name}
    found = [
        ConfigError(
            flag, "", f"was {flags[flag]} when the run began, and is not typed now", f"add {flag}={flags[flag]}"
        )
        for flag, value in typed.items()
        if flag in flags and value is None
    ]
    if found:
        raise ConfigErrors(found)


def _of_before(mistake: ConfigError) -> ConfigError:
    """A mistake in what was typed when the run began, and was none then."""
    remedy = "it was typed when the run began: the --config-dir that has it has to be typed again"
    return ConfigError(mistake.key, mistake.value, mistake.problem, remedy)


def _refuse_changes(folder: Path, new: Mapping[str, Any], typed: Sequence[str]) -> None:
    """Raises Mistakes with every value that is not the run's and may not change, and every name that is not trusted."""
    old = _config(folder)
    found, rounds = _changes(old, new), new["schedule"]["rounds"]
    journal = folder / JOURNAL
    done = journal.read_bytes().count(b"\n") if journal.is_file() else 0
    if isinstance(rounds, int) and rounds < done and rounds != (old.get("schedule") or {}).get("rounds"):
        found.append(
            ConfigError("schedule.rounds", rounds, f"is less than the {done} rounds done", "take more, or leave it out")
        )
    if found:
        raise ConfigErrors(found)
    named = [unquote(text) for text in typed if _key(text).endswith("_target_")]
    refused = untrusted_targets(new, [*named, *(target.rpartition(".")[0] for target in named)])
    remedy = f"if you trust it: type it again, or {ALLOW_VARIABLE}=MODULE"
    if refused:
        raise ConfigErrors(ConfigError(mistake.key, mistake.value, mistake.problem, remedy) for mistake in refused)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ConfigError]:
    """Every value that is not the run's and may not change."""
    found = [
        ConfigError(key, now, f"was {was} when the run began", "leave it out, or begin another run")
        for key, (was, now) in _differences(old, new).items()
        if not may_change(key)
    ]
    schedule, rounds = old.get("schedule") or {}, new["schedule"]["rounds"]
    if schedule.get("rounds") != rounds and schedule.get("lr") == "cosine":
        why = f"was {schedule.get('rounds')}, and with schedule.lr=cosine the rates of the rounds done depend on it"
        found.append(ConfigError("schedule.rounds", rounds, why, "leave it out"))
    return found


def _config(folder: Path) -> Mapping[str, Any]:
    """A run's configuration. Raises Mistakes if that is not what is in its config.yaml."""
    with suppress(OSError, ValueError, yaml.YAMLError):
        config = yaml.safe_load((folder / "config.yaml").read_bytes())
        if isinstance(config, Mapping):
            return config
    raise ConfigErrors([ConfigError("resume", folder, "has a config.yaml that is not one of ours")])


def may_change(key: str) -> bool:
    """Whether a run may be gone on with another value of a key."""
    return key != "executor.threads" and any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def _newest(config: Mapping[str, Any]) -> Path | None:
    """The newest unfinished run of a configuration that no process is at; None if there is none."""
    places = Path("outputs/runs").glob("*/*/config.yaml")
    for path in sorted(filter(Path.is_file, places), key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(ConfigErrors):  # no run's
            if (path.parent / "summary.json").exists() or _changes(_config(path.parent), config):
                continue
            with (
                suppress(OSError),
                FileLock(path.parent / "lock", timeout=0),
            ):  # another process's, or not to be written
                return path.parent.absolute()
    return None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values are not the same, with both; a key that is missing counts as null."""
    flat_old, flat_new = flatten(old), flatten(new)
    return {
        key: (flat_old.get(key), flat_new.get(key))
        for key in {**flat_old, **flat_new}
        if flat_old.get(key) != flat_new.get(key)
    }


def _key(text: str) -> str:
    """The key of an override, without what says how it is applied."""
    return text.partition("=")[0].lstrip("+~").partition("@")[0]


def resume_command(folder: Path, config: Mapping[str, Any], flags: Sequence[str] = ()) -> str:
    """What to type to go on with a run: with leave to import what is the user's own, and the flags of `command_line.flags`."""
    own = {str(mistake.value).partition(".")[0] for mistake in untrusted_targets(config)}
    own |= {*filter(None, os.environ.get(ALLOW_VARIABLE, "").split(","))}
    allow = f"{ALLOW_VARIABLE}={','.join(sorted(own))} " if own else ""
    words = shlex.join(["python", "-m", "fedlit.train", *flags])
    return f"{allow}{words} resume={shlex.quote(str(folder))}"
