"""The operations of a disk that a commit is made of, one by one, so that each can be made to fail in a test."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Filesystem(Protocol):
    """What a commit asks of a disk. What was written survives a crash of the process; a loss of power only once it is
    synced, and a file's or a folder's name only once the folder that holds it is."""

    def mkdir(self, path: Path) -> None: ...

    def write(self, path: Path, content: bytes) -> None: ...

    def append(self, path: Path, content: bytes) -> None: ...

    def sync(self, path: Path) -> None: ...

    def rename(self, old: Path, new: Path) -> None: ...

    def remove(self, path: Path) -> None: ...


class LocalFilesystem:
    """The file system. Every method raises OSError as the system does."""

    def mkdir(self, path: Path) -> None:
        """Makes a folder."""
        path.mkdir()

    def write(self, path: Path, content: bytes) -> None:
        """Makes a file, or a file that was there anew."""
        path.write_bytes(content)

    def append(self, path: Path, content: bytes) -> None:
        """Adds to the end of a file, which is made if it is not there."""
        with path.open("ab") as file:
            file.write(content)

    def sync(self, path: Path) -> None:
        """Waits until a file's content, or a folder's list of names, is on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Gives a file or folder another name, in one step."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Removes a file, or a folder with all that is in it; what is not there is no error."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sync_parents(folder: Path, disk: Filesystem) -> None:
    """Waits until the names of a folder and of those above it are on the disk, as far up as this user may make any."""
    for above in folder.absolute().parents:
        if not os.access(above, os.R_OK | os.W_OK):
            return
        disk.sync(above)


def write_atomic(path: Path, content: bytes, disk: Filesystem | None = None) -> None:
    """Writes a file that is there as a whole or as it was, whatever happens."""
    disk, partial = disk or LocalFilesystem(), path.with_name(path.name + ".tmp")
    disk.write(partial, content)
    disk.sync(partial)
    disk.rename(partial, path)
    disk.sync(path.parent)


def to_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON text; numbers that are NaN or infinite are null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The records of a file, one a line, and whether a last line was cut off, which a killed process may leave.

    Raises:
        ValueError: if a whole line is not JSON.
    """
    *lines, last = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines], bool(last)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
