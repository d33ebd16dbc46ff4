"""Faults of the disk of a run: full, and read-only."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fedlit.server.checkpoint.disk import DiskCheckpointer
from matrix.commands import (
    ALLOW,
    OVERRIDES,
    cli_command,
    cli_run,
    expect_exit,
    expect_resume,
    interrupted_run,
    reference_cli_run,
    split,
)
from matrix.forks import run_in_fork
from matrix.lab import Rows, expect, expect_same, read_run

ROWS = Rows()


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[bool]:
    """Mount a small file system at a folder; yield False if this is not allowed."""
    folder.mkdir()
    is_mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode
        == 0
    )
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@ROWS("ENOSPC on a small tmpfs", "exit 1 with the reason; with space, same bits", slow=True)
def no_space(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=1m") as is_mounted:
        for pages in (0, 3, None):
            here = folder / "disk" / f"run-{pages}"
            end = run_in_fork(lambda here=here, pages=pages: _run_until_full(here, pages, is_mounted))
            (folder / "disk" / "filler").unlink(missing_ok=True)
            where = f"{pages} pages left"
            expect(end.status == 1, f"{where}: ended with status {end.status}: {end.output}")
            expect("can no longer be written: No space left" in end.output, f"{where}: printed {end.output}")
            expect("Traceback" not in end.output, f"{where}: {end.output}")
            again = cli_run(here, resume=True)
            if pages == 0:
                (command,) = re.findall(r"^  (.*resume=.*)$", end.output, re.MULTILINE)
                again = cli_command(split(command)[1][-1], **ALLOW)
            expect_exit(0, again)
            expect_same(read_run(here), reference_cli_run(), where)
    return "in a checkpoint and after it" if is_mounted else "simulated: no tmpfs may be mounted here"


def _run_until_full(folder: Path, pages: int | None, is_mounted: bool) -> None:
    """Run with a disk that fills up in round 3.

    Args:
        folder: folder of the run.
        pages: free pages of the disk when the third checkpoint is written; None for a disk that is full afterwards.
        is_mounted: the folder is on a disk of its own; otherwise the error is simulated.
    """
    original = DiskCheckpointer.commit

    def commit(self: DiskCheckpointer, state: Any, *rest: Any) -> None:
        if state.round == 3 and not is_mounted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if state.round == 3 and pages is not None:
            _fill(folder.parent / "filler", pages)
        original(self, state, *rest)
        if state.round == 3 and pages is None:
            _fill(folder.parent / "filler", 0)

    with patch.object(DiskCheckpointer, "commit", commit):
        (cli_command(*OVERRIDES, f"hydra.run.dir={folder}") if pages == 0 else cli_run(folder))()


def _fill(path: Path, pages: int) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - 4096 * pages))


@ROWS("a read-only run folder", "exit 2 before round 1", slow=True)
def read_only(folder: Path) -> str:
    with tmpfs(folder / "disk", "size=4m") as is_mounted:
        here = folder / "disk" / "run"
        expect_exit(143, lambda: interrupted_run(here))
        (folder / "file").touch()
        if is_mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(folder / "disk")], check=True)
        targets = [here, folder / "disk" / "new"] if is_mounted else [folder / "file" / "run"]
        for target in targets:
            end = expect_exit(
                2, cli_command(f"resume={target}" if target == here else f"hydra.run.dir={target}", **ALLOW)
            )
            expect(f"{target}" in end.output and "cannot be written" in end.output, f"printed {end.output}")
        if is_mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(folder / "disk")], check=True)
            expect_resume(here, 2)
    return "new and resumed" if is_mounted else "below a file: no tmpfs may be mounted here"
