"""A server that is killed on purpose."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from fedlit.core.errors import ConfigError, raise_errors, require_at_least, require_choice
from fedlit.core.files import Filesystem


@dataclass(frozen=True)
class ServerCrash:
    """The server is killed while it commits a round; a resumed run takes no notice.

    Args:
        round: which, counted from 1.
        step: at the first `mkdir`, `write`, `sync`, `rename` or `append` of its commit; `mkdir` is before anything of the
            round is on the disk.
    """

    round: int
    step: Literal["mkdir", "write", "sync", "rename", "append"] = "mkdir"

    def __post_init__(self) -> None:
        raise_errors(
            require_choice("step", self.step, ("mkdir", "write", "sync", "rename", "append")),
            require_at_least("round", self.round),
        )

    def check(self, rounds: int) -> Iterator[ConfigError]:
        """A round that the run has."""
        if self.round > rounds:
            why = f"is after the last of the {rounds} rounds"
            yield ConfigError("faults.server.round", self.round, why, "take an earlier one, or more rounds")

    def filesystem(self, disk: Filesystem) -> Filesystem:
        """The disk that kills this process."""
        return cast(Filesystem, CrashingFilesystem(disk, self))


class CrashingFilesystem:
    """A disk that kills its process at a step of a round's commit, which is recognised by its folder's name."""

    def __init__(self, disk: Filesystem, crash: ServerCrash) -> None:
        self._disk, self._crash, self._due = disk, crash, False

    def __getattr__(self, step: str) -> Callable[..., None]:
        def do(*given: Path | bytes) -> None:
            name = f"round-{self._crash.round:06d}"
            self._due |= any(isinstance(path, Path) and name in str(path) for path in given)
            if self._due and step == self._crash.step:
                os.kill(os.getpid(), signal.SIGKILL)
            getattr(self._disk, step)(*given)

        return do
