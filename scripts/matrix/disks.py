"""Disks that kill their process, that record their steps, and that lose power."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedlit.core.files import LocalFilesystem

Step = tuple[str, tuple[Path | bytes, ...]]


class Recording(LocalFilesystem):
    """A disk that records its steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def mkdir(self, path: Path) -> None:
        self.steps.append(("mkdir", (path,)))
        super().mkdir(path)

    def write(self, path: Path, content: bytes | bytearray) -> None:
        self.steps.append(("write", (path, bytes(content))))
        super().write(path, content)

    def append(self, path: Path, content: bytes) -> None:
        self.steps.append(("append", (path, content)))
        super().append(path, content)

    def sync(self, path: Path) -> None:
        self.steps.append(("sync", (path,)))
        super().sync(path)

    def rename(self, old: Path, new: Path) -> None:
        self.steps.append(("rename", (old, new)))
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self.steps.append(("remove", (path,)))
        super().remove(path)


class Killing(Recording):
    """A disk that kills its process at one of its steps.

    Args:
        at: the step before which the process is killed, counted from 0.
        half: kill the process within the step: half of the bytes are written, or half of the files removed.
    """

    def __init__(self, at: int, half: bool = False) -> None:
        super().__init__()
        self._at, self._half = at, half

    def _is_due(self, half: bool = False) -> bool:
        if len(self.steps) != self._at or (self._half and not half):
            return False
        if not self._half:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def mkdir(self, path: Path) -> None:
        self._is_due()
        super().mkdir(path)

    def write(self, path: Path, content: bytes | bytearray) -> None:
        if self._is_due(half=True):
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(path, content)

    def append(self, path: Path, content: bytes) -> None:
        if self._is_due(half=True):
            LocalFilesystem().append(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        super().append(path, content)

    def sync(self, path: Path) -> None:
        self._is_due()
        super().sync(path)

    def rename(self, old: Path, new: Path) -> None:
        self._is_due()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        if self._is_due(half=True):
            for file in sorted(path.iterdir())[::2] if path.is_dir() else []:
                file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        super().remove(path)


def kill_points(steps: Sequence[Step]) -> Iterator[tuple[int, bool]]:
    """Yield (step number, within the step) for each moment at which a process can be killed.

    A process is killed before each step, and also within a step that takes longer.
    """
    for number, (step, _) in enumerate(steps):
        yield number, False
        if step in ("write", "append", "remove"):
            yield number, True


@dataclass
class Node:
    """A file or a folder, as programs see it and as it is on the disk.

    Args:
        data, synced: content of a file in memory and on the disk; None for a folder.
        names, safe: entries of a folder in memory and on the disk.
    """

    data: bytes | None = None
    synced: bytes | None = None
    names: dict[str, Node] = field(default_factory=dict)
    safe: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """The data without a sync that survives a power cut.

    Args:
        outer: names in the run's folder and in its folder of checkpoints survive.
        inner: names within a checkpoint survive.
        half: half of the bytes survive; otherwise none.
    """

    outer: bool
    inner: bool
    half: bool


CUTS = [Cut(outer, inner, half) for outer in (False, True) for inner in (False, True) for half in (False, True)]


class Platter:
    """A disk in memory for a folder that is empty and on the disk at the start."""

    def __init__(self, top: Path) -> None:
        self._top, self._root = top, Node()

    def do(self, step: Step) -> None:
        """Apply a recorded step; folders above the top folder are always on the disk."""
        name, (path, *rest) = step
        assert isinstance(path, Path)
        if not path.is_relative_to(self._top):
            return
        parts = path.relative_to(self._top).parts
        above, last = self._at(parts[:-1]), parts[-1] if parts else ""
        if name == "mkdir":
            above.names[last] = Node()
        elif name in ("write", "append"):
            (content,) = rest
            assert isinstance(content, bytes)
            node = above.names.setdefault(last, Node(b"", b""))
            node.data = content if name == "write" else (node.data or b"") + content
        elif name == "sync":
            node = above.names[last] if parts else self._root
            node.synced, node.safe = node.data, dict(node.names)
        elif name == "rename":
            (new,) = rest
            assert isinstance(new, Path)
            self._at(new.relative_to(self._top).parts[:-1]).names[new.name] = above.names.pop(last)
        elif last in above.names:
            above.names.pop(last).names.clear()

    def after(self, cut: Cut) -> dict[tuple[str, ...], bytes | None]:
        """Return the content of each path after a power cut; None for a folder."""
        return dict(_walk(self._root, cut, ()))

    def _at(self, parts: Sequence[str]) -> Node:
        node = self._root
        for part in parts:
            node = node.names[part]
        return node


def _walk(node: Node, cut: Cut, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bytes | None]]:
    names = node.names if (cut.outer if len(path) < 2 else cut.inner) else node.safe
    for name, below in names.items():
        if below.data is None:
            yield (*path, name), None
            yield from _walk(below, cut, (*path, name))
        else:
            yield (*path, name), _content(below, cut.half)


def _content(node: Node, half: bool) -> bytes:
    data, synced = node.data or b"", node.synced or b""
    if data == synced or not half:
        return synced
    start = len(synced) if data.startswith(synced) else 0
    return data[: start + (len(data) - start) // 2]


def write_folder(content: dict[tuple[str, ...], bytes | None], folder: Path) -> Path:
    """Write content to a new folder, and return the folder."""
    folder.mkdir()
    for path, data in content.items():
        if data is None:
            folder.joinpath(*path).mkdir()
        else:
            folder.joinpath(*path).write_bytes(data)
    return folder
