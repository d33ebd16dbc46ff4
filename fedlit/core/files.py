"""Files: the operations of a checkpoint, atomic writes, JSON, and dotted keys."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

START_BYTES = 2**16
"""Space that a folder needs before a run begins in it: the files of Hydra take a third of it."""


class Filesystem(Protocol):
    """The operations of a checkpoint, one by one.

    A test can make each operation fail. A written file survives a crash of the process. It survives a loss of power only after
    a sync; the name of a file or folder only after a sync of its parent folder.
    """

    def mkdir(self, path: Path) -> None: ...

    def write(self, path: Path, content: bytes | bytearray) -> None: ...

    def append(self, path: Path, content: bytes) -> None: ...

    def sync(self, path: Path) -> None: ...

    def rename(self, old: Path, new: Path) -> None: ...

    def remove(self, path: Path) -> None: ...


class LocalFilesystem:
    """The operating system's files. Every method raises OSError as the system does."""

    def mkdir(self, path: Path) -> None:
        """Make a folder."""
        path.mkdir()

    def write(self, path: Path, content: bytes | bytearray) -> None:
        """Write or replace a file; a link is an OSError."""
        with open_file(path, os.O_TRUNC) as file:
            file.write(content)

    def append(self, path: Path, content: bytes) -> None:
        """Append to a file, made if missing; a link is an OSError."""
        with open_file(path, os.O_APPEND) as file:
            file.write(content)

    def sync(self, path: Path) -> None:
        """Wait until a file's or a folder's content is on the disk.

        The content of a folder is its list of names.
        """
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or folder in one step."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with its content.

        A missing path is not an error.
        """
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def open_file(path: Path, flags: int) -> BinaryIO:
    """Open a file for writing, and make it if missing.

    A symbolic link is not followed: in a folder from elsewhere it may lead to any of the user's files.

    Args:
        path: path of the file.
        flags: further flags of os.open, such as os.O_APPEND.
    """
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags, 0o666), "wb")


def sync_parents(folder: Path, filesystem: Filesystem) -> None:
    """Sync the folders above a folder, from the nearest upwards.

    The sync ends at the first folder that this user cannot write.
    """
    for parent in folder.absolute().parents:
        if not os.access(parent, os.R_OK | os.W_OK):
            return
        filesystem.sync(parent)


def write_atomic(path: Path, content: bytes, filesystem: Filesystem | None = None) -> None:
    """Write a file atomically.

    Whatever happens, the file has either its old or its new content. A link at the path is replaced, not followed.
    """
    filesystem, partial = filesystem or LocalFilesystem(), path.with_name(path.name + ".tmp")
    filesystem.write(partial, content)
    filesystem.sync(partial)
    filesystem.rename(partial, path)
    filesystem.sync(path.parent)


def to_json(value: Any, indent: int | None = None) -> str:
    """The value as strict JSON; NaN and infinite numbers become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Read a file with one record a line.

    Returns:
        The records, and True if the last line is incomplete, as a killed process may leave it.

    Raises:
        ValueError: if a complete line is not JSON.
    """
    *lines, last = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines], bool(last)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys.

    An empty mapping is a value.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unwritable_reason(folder: Path) -> str:
    """Return why a folder is not writable; an empty string otherwise.

    The folder need not exist. The test writes START_BYTES, and leaves no file.
    """
    existing = folder.absolute()
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        for name in folder.absolute().relative_to(existing).parts:
            (existing / name).exists()  # raises for a name that is too long
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".fedlit-", buffering=0) as file:
            file.write(bytes(START_BYTES))
            return ""
    except OSError as error:
        return _reason(error)


def unreadable_reason(path: Path) -> str:
    """Return why a path is unreadable; an empty string otherwise.

    That a path does not exist is no reason, nor that it is a file. `Path.is_file` and `Path.is_dir` raise the OSErrors of
    which this function returns the reason, such as that of a name that is too long.
    """
    try:
        os.scandir(path).close()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return _reason(error)
    return ""


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
