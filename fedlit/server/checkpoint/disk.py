"""Checkpoints on disk: each round is one transaction.

In a run's folder:

    rounds.jsonl                    one record a round
    checkpoints/round-000012/       one checkpoint: state, changed client states, round.json, manifest.json
    checkpoints/memories-000007/    client states of an older round, while some client still has that state
    checkpoints/clients.jsonl       the client states of each round: see `SegmentLedger`

A checkpoint is a new folder. Its files and the folder are synced, and then one rename gives the folder its name. The manifest
has the size and SHA-256 of each file. round.json has the round's lines of both .jsonl files, which are appended after the
rename, and the SHA-256 of clients.jsonl. Nothing is pickled.
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
from fedlit.core.serialization import flatten_state, to_safetensors
from fedlit.runs.layout import CHECKPOINTS, JOURNAL, LOCK
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Checkpointer, Retention
from fedlit.server.checkpoint.client_states import client_states_bytes
from fedlit.server.checkpoint.folders import committed_rounds, list_partial, list_rounds, round_dir
from fedlit.server.checkpoint.format import (
    MANIFEST,
    ROUND,
    STATE,
    UNREADABLE,
    file_digest,
    make_manifest,
    raise_if_other_experiment,
    raise_if_records_alone,
    read_checkpoint,
    read_journal,
)
from fedlit.server.checkpoint.pruning import CheckpointFolders
from fedlit.server.checkpoint.segments import CLIENT_STATES, LEDGER, SegmentLedger, SegmentReader, read_ledger
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
    _stored: tuple[SegmentLedger, CheckpointFolders] | None = field(default=None, init=False)
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
        ledger, folders = self._stored or self._list_stored()
        self._stored = None  # until all of the commit is done
        record_line, has_journal = to_json(record.to_dict()) + "\n", journal.exists()
        changed = client_states.changed
        segment = client_states_bytes(changed) if changed else b""
        digests = {CLIENT_STATES: file_digest(segment)} if changed else {}
        line = ledger.line(state.round, digests.get(CLIENT_STATES, {}), changed, client_states.removed)
        note = {"round": state.round, "offset": journal.stat().st_size if has_journal else 0, "line": record_line}
        note |= {"clients": ledger.note(line), "experiment": dict(self._experiment)}
        files: dict[str, bytes | bytearray] = {STATE: to_safetensors(flatten_state(state))}
        files[ROUND] = json.dumps(note).encode()
        digests |= {name: file_digest(content) for name, content in files.items()}
        files |= {CLIENT_STATES: segment} if changed else {}
        files[MANIFEST] = make_manifest(digests)
        self._write(files, round_dir(self._path, state.round))
        self._append({journal: record_line.encode()} | ({parent / LEDGER: line} if line else {}))
        ledger.append(line)
        folders.add(state.round)
        folders.prune(self.retention)
        client_states.move_to(SegmentReader(self._path, ledger))
        self._stored = ledger, folders

    def load(self) -> Checkpoint | None:
        """The checkpoint of the newest valid round.

        Newer rounds are quarantined with a warning, and rounds.jsonl becomes what it was after that round.

        Raises:
            ConfigError: if there are rounds and none is valid, or records of rounds without a checkpoint.
            ConfigErrors: if the rounds belong to another experiment.
            OSError: if the filesystem does not allow the repair.
        """
        checkpoint, texts, damaged = self._newest(self._experiment)
        self._stored = None
        for leftover in list_partial(self._path):
            self.filesystem.remove(leftover)
        if checkpoint is not None:
            reason, older = "is of a round after the last valid one", list_rounds(self._path, "memories")
            later = [(path, reason) for round, path in older.items() if round > checkpoint.state.round]
            self._quarantine([*damaged, *later])
            for path, content in texts.items():
                if (path.read_bytes() if path.exists() else b"") != content:
                    write_atomic(path, content, self.filesystem)
        return checkpoint

    def peek(self, experiment: Mapping[str, Any]) -> Checkpoint | None:
        """Return the checkpoint of `load` without any change; raise as `load` does."""
        return self._newest(experiment)[0]

    def _newest(
        self, experiment: Mapping[str, Any]
    ) -> tuple[Checkpoint | None, dict[Path, bytes], list[tuple[Path, str]]]:
        """Find the newest valid checkpoint.

        Returns:
            The checkpoint, None without one; its rounds.jsonl and ledger; the damaged newer ones, each with the reason.
        """
        damaged: list[tuple[Path, str]] = []
        for round in reversed(committed_rounds(self._path)):
            try:
                state, client_states, note = read_checkpoint(self._path, round)
                journal, records = read_journal(self._path / JOURNAL, note)
                ledger = read_ledger(self._path, note["clients"])
                before = dict(note["experiment"])
            except UNREADABLE as error:
                damaged.append((round_dir(self._path, round), " ".join(str(error).split())))
                continue
            raise_if_other_experiment(before, experiment, self._path)
            texts = {self._path / JOURNAL: journal, self._path / CHECKPOINTS / LEDGER: ledger}
            return Checkpoint(state, client_states, records), texts, damaged
        if damaged:
            reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
            raise ConfigError("resume", self._path, f"has no valid round: {reasons}", "start a run in another folder")
        raise_if_records_alone(self._path)
        return None, {}, damaged

    def finish(self) -> None:
        """Keep only the last round, and those of `every`."""
        self._stored = self._stored or self._list_stored()
        self._stored[1].prune(replace(self.retention, keep=1))

    def _list_stored(self) -> tuple[SegmentLedger, CheckpointFolders]:
        """Read the ledger and list the folders.

        This is done once, and after a failed commit.
        """
        path = self._path / CHECKPOINTS / LEDGER
        ledger = SegmentLedger(path.read_bytes() if path.exists() else b"")
        return ledger, CheckpointFolders(self._path, self.filesystem, ledger)

    def _write(self, files: Mapping[str, bytes | bytearray], place: Path) -> None:
        """Write a folder under another name, sync it, and rename it.

        All files are written before the first sync: the disk then writes them at once.
        """
        disk, partial = self.filesystem, place.with_name(f".{place.name}")
        disk.remove(partial)
        disk.mkdir(partial)
        for name, content in files.items():
            disk.write(partial / name, content)
        for name in files:
            disk.sync(partial / name)
        disk.sync(partial)
        disk.rename(partial, place)
        disk.sync(place.parent)

    def _append(self, lines: Mapping[Path, bytes]) -> None:
        """Append a line to each file; sync files and new names."""
        new_in = {path.parent for path in lines if not path.exists()}
        for path, line in lines.items():
            self.filesystem.append(path, line)
        for path in (*lines, *sorted(new_in)):
            self.filesystem.sync(path)

    def _quarantine(self, damaged: Sequence[tuple[Path, str]]) -> None:
        for path, reason in damaged:
            log.warning("%s is not valid and is quarantined: %s", path, reason)
            self.filesystem.rename(path, _unused_path(path.with_name(f"bad-{path.name}")))


Checkpoints = DiskCheckpointer
"""The checkpoints of a run, on disk."""


def _unused_path(path: Path) -> Path:
    number = 0
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.partition('~')[0]}~{number}")
    return path
