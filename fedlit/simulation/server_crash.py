"""A planned crash of the server."""

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
    """A crash that kills the server while it writes a checkpoint.

    The checkpoint is that of a round. A resumed run ignores the crash.

    Args:
        round: the round, counted from 1.
        step: the crash is at the first `mkdir`, `write`, `sync`, `rename` or `append` of the checkpoint; at `mkdir` nothing
            of the round is on the disk yet.
    """

    round: int
    step: Literal["mkdir", "write", "sync", "rename", "append"] = "mkdir"

    def __post_init__(self) -> None:
        raise_errors(
            require_choice("step", self.step, ("mkdir", "write", "sync", "rename", "append")),
            require_at_least("round", self.round),
        )

    def check(self, rounds: int) -> Iterator[ConfigError]:
        """Yield an error if the run does not have the round.

        Args:
            rounds: number of rounds of the run.
        """
        if self.round > rounds:
            problem = f"must be at most {rounds}, the last round"
            yield ConfigError("faults.server.round", self.round, problem, "choose an earlier round, or run more rounds")

    def filesystem(self, disk: Filesystem) -> Filesystem:
        """Return a file system that kills this process at the planned step."""
        return cast(Filesystem, CrashingFilesystem(disk, self))


class CrashingFilesystem:
    """A file system that kills its process during a round's checkpoint.

    The process is killed at a step of the checkpoint. The name of the round's folder shows which checkpoint is written.
    """

    def __init__(self, disk: Filesystem, crash: ServerCrash) -> None:
        self._disk, self._crash, self._is_due = disk, crash, False

    def __getattr__(self, step: str) -> Callable[..., None]:
        def run_step(*args: Path | bytes) -> None:
            name = f"round-{self._crash.round:06d}"
            self._is_due |= any(isinstance(path, Path) and name in str(path) for path in args)
            if self._is_due and step == self._crash.step:
                os.kill(os.getpid(), signal.SIGKILL)
            getattr(self._disk, step)(*args)

        return run_step
