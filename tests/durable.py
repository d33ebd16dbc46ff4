"""A file system that can lose its power: what was not synced is lost."""

import itertools
import os
from pathlib import Path

from fedlit.core.files import LocalFilesystem


class Stopped(BaseException):
    """The process is killed, or the power fails."""


class DurableFilesystem(LocalFilesystem):
    """The files of a folder, with those that a loss of power would leave.

    A step that stops the process is done by half: half of a content is written, one file of a folder is removed.

    Args:
        root: the folder; all that it has already is on the disk.
        trash: an empty folder for removed files, so that the system reuses no inode of them.
        stop_at: number of the step that stops the process, counted from 0; None for none.
    """

    def __init__(self, root: Path, trash: Path, stop_at: int | None = None):
        self.root, self.trash, self.stop_at, self.steps = root, trash, stop_at, []
        self._contents, self._names = {}, {}  # by inode
        for path in (root, *root.rglob("*")):
            self._keep(path)

    def _keep(self, path):
        if path.is_dir():
            self._names[path.stat().st_ino] = {child.name: child.stat().st_ino for child in path.iterdir()}
        else:
            self._contents[path.stat().st_ino] = path.read_bytes()

    def _step(self, name, path):
        self.steps.append(f"{name} {path.relative_to(self.root).as_posix()}")
        return len(self.steps) - 1 == self.stop_at

    def mkdir(self, path):
        if self._step("mkdir", path):
            raise Stopped
        super().mkdir(path)
        self._names[path.stat().st_ino] = {}

    def write(self, path, content):
        stops = self._step("write", path)
        super().write(path, content[: len(content) // 2] if stops else content)
        self._contents.setdefault(path.stat().st_ino, b"")
        if stops:
            raise Stopped

    def append(self, path, content):
        stops = self._step("append", path)
        super().append(path, content[: len(content) // 2] if stops else content)
        self._contents.setdefault(path.stat().st_ino, b"")
        if stops:
            raise Stopped

    def sync(self, path):
        if self._step("sync", path):
            raise Stopped
        self._keep(path)

    def rename(self, old, new):
        if self._step("rename", new):
            raise Stopped
        super().rename(old, new)

    def remove(self, path):
        if not path.exists():
            return
        stops = self._step("remove", path)
        if stops and path.is_dir():
            path = min(path.iterdir(), default=path)
        number = next(number for number in itertools.count() if not (self.trash / str(number)).exists())
        os.replace(path, self.trash / str(number))
        if stops:
            raise Stopped

    def lose_power(self, target: Path) -> Path:
        """Write what a loss of power leaves into a new folder."""

        def restore(inode, path):
            if inode in self._names:
                path.mkdir()
                for name, child in self._names[inode].items():
                    restore(child, path / name)
            else:
                path.write_bytes(self._contents[inode])

        restore(self.root.stat().st_ino, target)
        return target
