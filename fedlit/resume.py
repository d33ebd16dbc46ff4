"""`resume=RUN`: what was typed for a run, and what is typed now, as one command line.

A run's folder may come from anybody: of what was typed for it nothing is taken that is Hydra's own, and what its configuration
names has to be on the list of `trust`, or be typed again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException

from fedlit.build import plain
from fedlit.command_line import loader
from fedlit.mistakes import Mistake, Mistakes
from fedlit.running import COMMAND
from fedlit.trust import distrust

MAY_CHANGE = (
    "schedule.rounds",
    "executor",
    "observers",
    "checkpoint",
    "sweep",
    "trainer.accelerator",
    "check",
    "traceback",
    "resume",
)
"""Keys that a run may be gone on with otherwise, with all below them; of `executor` not the threads, on which bits depend."""


def rewritten(arguments: Sequence[str]) -> list[str]:
    """The command line that goes on with the run that `resume` names; the same one where it names none.

    Raises:
        Mistakes: if there is no such run, or something was typed that differs and may not.
    """
    typed = get_args_parser().parse_args(list(arguments))
    overrides = [text for text in typed.overrides if _key(text) != "resume"]
    asked = [text.partition("=")[2].strip("'\"") for text in typed.overrides if _key(text) == "resume"]
    if not asked or asked[-1] in ("", "null"):
        return list(arguments)
    if typed.multirun:
        raise Mistakes([Mistake("resume", asked[-1], "goes on with one run, and -m begins several", "leave out -m")])
    flags = [argument for argument in arguments if argument not in typed.overrides]
    where = [text.partition("=")[2].strip("'\"") for text in overrides if _key(text) == "hydra.run.dir"]
    with loader(typed.config_dir):
        if asked[-1] == "auto":
            folder = _newest(overrides, Path(where[-1]) if where else None)
            if folder is None:
                return [*flags, *overrides]  # nothing to go on with: it begins
        else:
            folder = Path(asked[-1]).expanduser().absolute()
        before = _typed_before(folder)
        now = {_key(text) for text in overrides}
        both = [text for text in before if _key(text) not in now] + [t for t in overrides if _key(t) != "hydra.run.dir"]
        _refuse_changes(folder, both, overrides)
    return [*flags, *both, f"resume='{folder}'", f"hydra.run.dir='{folder}'"]


def _typed_before(folder: Path) -> list[str]:
    """What was typed for a run, but for what is Hydra's."""
    for name in (COMMAND, "config.yaml"):
        if not (folder / name).is_file():
            raise Mistakes([Mistake("resume", folder, f"has no {name}", "name the folder of a run, or auto")])
    overrides = json.loads((folder / COMMAND).read_text())["overrides"]
    return [text for text in overrides if _key(text).split("/")[0].split(".")[0] not in ("hydra", "resume")]


def _refuse_changes(folder: Path, overrides: Sequence[str], typed: Sequence[str]) -> None:
    """Raises Mistakes with every value that is not the run's and may not change, and every name that is not trusted."""
    try:
        new = plain(compose("config", list(overrides)))
    except HydraException as error:
        why = f"cannot be composed as it was: {str(error).splitlines()[0]}"
        raise Mistakes([Mistake("resume", folder, why, "a --config-dir has to be typed again")]) from error
    old = yaml.safe_load((folder / "config.yaml").read_text())
    found = [
        Mistake(key, now, f"was {was} when the run began", "leave it out, or begin another run")
        for key, (was, now) in _differences(old, new).items()
        if not may_change(key)
    ]
    if old["schedule"]["rounds"] != new["schedule"]["rounds"] and old["schedule"]["lr"] == "cosine":
        why = f"was {old['schedule']['rounds']}, and with schedule.lr=cosine the rates of the rounds done depend on it"
        found.append(Mistake("schedule.rounds", new["schedule"]["rounds"], why, "leave it out"))
    if found:
        raise Mistakes(found)
    if refused := distrust(new, [text.partition("=")[2] for text in typed]):
        raise Mistakes(refused)


def may_change(key: str) -> bool:
    """Whether a run may be gone on with another value of a key."""
    return key != "executor.threads" and any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def _newest(overrides: Sequence[str], folder: Path | None) -> Path | None:
    """The newest unfinished run of a configuration that no process is at; None if there is none."""
    config = plain(compose("config", [text for text in overrides if not _key(text).startswith("hydra")]))
    places = [folder / "config.yaml"] if folder else Path("outputs/runs").glob("*/*/config.yaml")
    for path in sorted(filter(Path.is_file, places), key=lambda path: path.stat().st_mtime, reverse=True):
        old = yaml.safe_load(path.read_text())
        if (path.parent / "summary.json").exists() or not all(map(may_change, _differences(old, config))):
            continue
        try:
            with FileLock(path.parent / "lock", timeout=0):
                return path.parent.absolute()
        except Timeout:
            continue
    return None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values are not the same, with both; a key that is missing counts as null."""
    flat_old, flat_new = _flat(old), _flat(new)
    return {
        key: (flat_old.get(key), flat_new.get(key))
        for key in {**flat_old, **flat_new}
        if flat_old.get(key) != flat_new.get(key)
    }


def _flat(node: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        values |= _flat(value, here) if isinstance(value, Mapping) and value else {here: value}
    return values


def _key(text: str) -> str:
    """The key of an override, without what says how it is applied."""
    return text.partition("=")[0].lstrip("+~").partition("@")[0]
