"""Checkpoints on disk: each round is one transaction.

In a run's folder:

    rounds.jsonl                    one record a round
    checkpoints/round-000012/       one checkpoint: state, changed client states, round.json, manifest.json
    checkpoints/memories-000007/    client states of an older round, while some client still has that state

A checkpoint is a new folder. Its files and the folder are synced, and then one rename gives the folder its name. The manifest
has the size and SHA-256 of each file, and of the older client states that some client still has. Nothing is pickled.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedlit.core.errors import ConfigError
from fedlit.core.files import Filesystem, LocalFilesystem, sync_parents, to_json, write_atomic
from fedlit.core.messages import ServerState
from fedlit.core.serialization import flatten_client_states, flatten_state, to_safetensors
from fedlit.runs.layout import CHECKPOINTS, JOURNAL, LOCK
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Checkpointer, Retention
from fedlit.server.checkpoint.folders import committed_rounds, list_partial, list_rounds, round_dir
from fedlit.server.checkpoint.format import (
    CLIENT_STATES,
    MANIFEST,
    ROUND,
    STATE,
    UNREADABLE,
    client_state_file,
    file_digest,
    last_update_rounds,
    make_manifest,
    raise_if_other_experiment,
    read_checkpoint,
    read_journal,
)
from fedlit.server.client_store import ClientStateStore

log = logging.getLogger("fedlit")


@dataclass
class DiskCheckpointer(Checkpointer):
    """Checkpoints in a run's folder.

    Args:
        folder: the run's folder; the first `open` makes it.
        retention: checkpoints that are kept.
        filesystem: writes the files.
    """

    folder: Path | str
    retention: Retention = field(default_factory=Retention)
    filesystem: Filesystem = field(default_factory=LocalFilesystem)
    _digests: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)
    _experiment: Mapping[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._path = Path(self.folder)
        self._lock = FileLock(self._path / LOCK, timeout=0)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make and lock the folder within the block; blocks may be nested.

        Raises:
            ConfigError: if another process has the folder.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            hint = "wait until it ends, or take another folder"
            raise ConfigError("folder", self._path, "is in use by another process", hint) from error
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def open(self, experiment: Mapping[str, Any]) -> Iterator[None]:
        """Lock the folder within the block, for one experiment.

        Raises:
            ConfigError: if another process has the folder.
        """
        with self.lock():
            sync_parents(self._path, self.filesystem)
            self._experiment = experiment
            yield

    def commit(self, state: ServerState, client_states: ClientStateStore, record: RoundRecord) -> None:
        """Store a round.

        After this call the round survives a crash and a loss of power. If the call raises, the round before it does.

        Raises:
            OSError: as the filesystem raises it.
        """
        parent, journal, disk = self._path / CHECKPOINTS, self._path / JOURNAL, self.filesystem
        if not parent.is_dir():
            disk.mkdir(parent)
            disk.sync(self._path)
        line, has_journal = to_json(record.to_dict()) + "\n", journal.exists()
        note = {"round": state.round, "offset": journal.stat().st_size if has_journal else 0, "line": line}
        note["experiment"] = dict(self._experiment)
        tensors = {**flatten_state(state), **last_update_rounds(client_states)}
        files = {STATE: to_safetensors(tensors), ROUND: json.dumps(note).encode()}
        if changed := client_states.changed_in(state.round):
            files[CLIENT_STATES] = to_safetensors(flatten_client_states(changed))
        older = sorted({*client_states.last_update.values()} - {state.round})
        self._digests = {r: self._digest(r) for r in older}
        own = {name: file_digest(content) for name, content in files.items()}
        files[MANIFEST] = make_manifest(own, self._digests)
        self._write(files, round_dir(self._path, state.round))
        self._digests |= {state.round: own[CLIENT_STATES]} if changed else {}
        disk.append(journal, line.encode())
        disk.sync(journal)
        if not has_journal:
            disk.sync(self._path)
        self._prune()

    def load(self) -> Checkpoint | None:
        """The checkpoint of the newest valid round.

        Newer rounds are quarantined with a warning, and rounds.jsonl becomes what it was after that round.

        Raises:
            ConfigError: if there are rounds and none is valid.
            ConfigErrors: if the rounds belong to another experiment.
            OSError: if the filesystem does not allow the repair.
        """
        checkpoint, journal, damaged = self._newest(self._experiment)
        for leftover in list_partial(self._path):
            self.filesystem.remove(leftover)
        if checkpoint is not None:
            reason, older = "is of a round after the last valid one", list_rounds(self._path, "memories")
            later = [(path, reason) for round, path in older.items() if round > checkpoint.state.round]
            self._quarantine([*damaged, *later])
            if not (self._path / JOURNAL).exists() or (self._path / JOURNAL).read_bytes() != journal:
                write_atomic(self._path / JOURNAL, journal, self.filesystem)
        return checkpoint

    def peek(self, experiment: Mapping[str, Any]) -> Checkpoint | None:
        """Return the checkpoint of `load` without any change; raise as `load` does."""
        return self._newest(experiment)[0]

    def _newest(self, experiment: Mapping[str, Any]) -> tuple[Checkpoint | None, bytes, list[tuple[Path, str]]]:
        """Return the newest valid checkpoint, its rounds.jsonl, and the damaged newer ones."""
        damaged: list[tuple[Path, str]] = []
        for round in reversed(committed_rounds(self._path)):
            try:
                state, client_states, note = read_checkpoint(self._path, round)
                journal, records = read_journal(self._path / JOURNAL, note)
                before = dict(note["experiment"])
            except UNREADABLE as error:
                damaged.append((round_dir(self._path, round), " ".join(str(error).split())))
                continue
            raise_if_other_experiment(before, experiment, self._path)
            return Checkpoint(state, client_states, records), journal, damaged
        if damaged:
            reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
            raise ConfigError("resume", self._path, f"has no valid round: {reasons}", "start a run in another folder")
        return None, b"", damaged

    def finish(self) -> None:
        """Keep only the last round, and those of `every`."""
        self._prune(1)

    def _digest(self, round: int) -> dict[str, Any]:
        """Size and SHA-256 of a round's client states, each file read once."""
        if round not in self._digests:
            self._digests[round] = file_digest(client_state_file(self._path, round).read_bytes())
        return self._digests[round]

    def _write(self, files: Mapping[str, bytes], place: Path) -> None:
        disk, partial = self.filesystem, place.with_name(f".{place.name}")
        disk.remove(partial)
        disk.mkdir(partial)
        for name, content in files.items():
            disk.write(partial / name, content)
            disk.sync(partial / name)
        disk.sync(partial)
        disk.rename(partial, place)
        disk.sync(place.parent)

    def _quarantine(self, damaged: Sequence[tuple[Path, str]]) -> None:
        for path, reason in damaged:
            log.warning("%s is not valid and is quarantined: %s", path, reason)
            self.filesystem.rename(path, _unused_path(path.with_name(f"bad-{path.name}")))

    def _prune(self, keep: int | None = None) -> None:
        """Remove old checkpoints, but no client states that a kept one needs."""
        rounds, needed = committed_rounds(self._path), set()
        rounds_to_keep = replace(self.retention, keep=keep or self.retention.keep).select_rounds(rounds)
        for round in sorted(rounds_to_keep):
            path = round_dir(self._path, round)
            try:
                needed |= {int(r) for r in json.loads((path / MANIFEST).read_bytes())["memories"]}
            except UNREADABLE as error:  # an old damaged one: client states that newer ones need stay
                log.warning("%s is not valid and is removed: %s", path, error)
                rounds_to_keep.remove(round)
        for round in rounds:
            if round not in rounds_to_keep:
                path = round_dir(self._path, round)
                if round in needed:
                    self.filesystem.rename(path, path.with_name(path.name.replace("round", "memories")))
                self._shrink(client_state_file(self._path, round).parent, round in needed)
        for round, path in sorted(
            list_rounds(self._path, "memories").items()
        ):  # last: until then a round may need them
            self._shrink(path, round in needed)

    def _shrink(self, path: Path, is_needed: bool) -> None:
        """Keep only a folder's client states, or remove the folder."""
        if not is_needed:
            removed = path.with_name(f".{path.name}")
            self.filesystem.rename(path, removed)
            self.filesystem.remove(removed)
            return
        for other in sorted(path.iterdir()):
            if other.name != CLIENT_STATES:
                self.filesystem.remove(other)


Checkpoints = DiskCheckpointer
"""Public alias."""


def _unused_path(path: Path) -> Path:
    number = 0
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.partition('~')[0]}~{number}")
    return path
