"""Origin of a run's folder: this user, or elsewhere.

A run that starts is remembered outside its folder, in the user's own state folder. The name of an entry is the SHA-256 of the
folder's inode, of `config.yaml` and of `command.json`. So a copied folder, or one whose configuration or command was changed,
is not remembered. The content of an entry is the path of the folder. If there are many entries, the oldest are removed whose
run is no longer at that path.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from fedlit.runs.layout import COMMAND, CONFIG
from fedlit.runs.parsing import read_bytes

MAX_ENTRIES = 1000
"""Number of entries above which those of removed runs are removed."""
MAX_CHECKED = 50
"""Number of the oldest entries that one start of a run checks."""


def remember_run(folder: Path) -> bool:
    """Remember the run as this user's own; False if that fails."""
    try:
        entry = _entry(folder)
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(entry, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except (OSError, ValueError):
        return False
    with open(descriptor, "wb") as file:
        file.write(os.fsencode(folder.absolute()) + b"\n")
    if is_own := is_own_run(folder):
        with suppress(OSError):  # another process removes entries, too
            _forget_removed_runs(entry.parent)
    return is_own


def is_own_run(folder: Path) -> bool:
    """Return True for this user's own run with unchanged configuration and command.

    An entry that others could have written does not count.
    """
    with suppress(OSError, ValueError):
        entry = _entry(folder)
        is_private = all(_is_private(path.lstat()) for path in (entry, entry.parent))
        return is_private and stat.S_ISREG(entry.lstat().st_mode)
    return False


def find_link(folder: Path) -> Path | None:
    """The first link or special file in a folder, or None.

    A run that resumes writes into its folder, and a link leads elsewhere.
    """
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                return path
    return None


def _entry(folder: Path) -> Path:
    """The file whose existence says that this user made the run."""
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    state = home if home.is_absolute() else Path(os.path.expanduser("~"), ".local", "state")
    if not state.is_absolute():
        raise OSError("this user has no home folder")
    digests = [hashlib.sha256(read_bytes(folder / name)).hexdigest() for name in (CONFIG, COMMAND)]
    identity = " ".join([str(folder.stat().st_ino), *digests])
    return state / "fedlit" / "runs" / hashlib.sha256(identity.encode()).hexdigest()


def _forget_removed_runs(entries: Path) -> None:
    """Remove old entries whose run is no longer at its path.

    As many are checked as there are above MAX_ENTRIES, at most MAX_CHECKED. One that stays becomes the newest one, so later
    calls check others.
    """
    ages = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in os.scandir(entries)]
    excess = len(ages) - MAX_ENTRIES
    for _, name in sorted(ages)[: min(max(0, excess), MAX_CHECKED)]:
        path = Path(name)
        if _is_current(path):
            os.utime(path)
        else:
            path.unlink(missing_ok=True)


def _is_current(entry: Path) -> bool:
    """True if the run of an entry is at its path."""
    with suppress(OSError, ValueError):
        return _entry(Path(os.fsdecode(read_bytes(entry).removesuffix(b"\n")))).name == entry.name
    return False


def _is_private(status: os.stat_result) -> bool:
    """True if only this user can write a file or folder."""
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
