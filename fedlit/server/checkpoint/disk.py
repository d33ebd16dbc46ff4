"""A round is a transaction: one atomic commit holds the state, the memories that changed, and the record.

In a run's folder:

    rounds.jsonl                    a record a round
    checkpoints/round-000012/       one commit: state, memories that changed in the round, round.json, manifest.json
    checkpoints/memories-000007/    what is left of an older one while a client's memory is still that of its round

A commit is a new folder beside the others; its files and the folder are synced, then it gets its name, in one step. A
manifest has the size and SHA-256 of each file, and of the older memories that are still some client's. Nothing is pickled.
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

from fedlit.core import serialization as wire
from fedlit.core.errors import ConfigError
from fedlit.core.files import Filesystem, LocalFilesystem, sync_parents, to_json, write_atomic
from fedlit.core.messages import ServerState
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.runs.record import RoundRecord
from fedlit.server.checkpoint.checkpointer import Checkpoint, Retention
from fedlit.server.checkpoint.format import (
    MANIFEST,
    MEMORIES,
    ROUND,
    STATE,
    client_state_file,
    committed_rounds,
    file_digest,
    last_update_rounds,
    list_rounds,
    make_manifest,
    raise_if_other_experiment,
    read_checkpoint,
    read_journal,
    round_dir,
)
from fedlit.server.client_store import ClientStateStore

log = logging.getLogger("fedlit")

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What reading a commit raises that is not what it was, whatever stands there instead."""


@dataclass
class DiskCheckpointer:
    """Commits in a run's folder.

    Args:
        folder: of the run; made when it is first opened.
        keeping: which are kept.
        disk: where they are written.
    """

    folder: Path | str
    retention: Retention = field(default_factory=Retention)
    filesystem: Filesystem = field(default_factory=LocalFilesystem)
    _digests: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)
    _experiment: Mapping[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._here = Path(self.folder)
        self._lock = FileLock(self._here / "lock", timeout=0)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the folder, and keeps other processes from it in the block, in which it may be held again.

        Raises:
            Mistake: if another process has it.
        """
        self._here.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            remedy = "wait for its end, or take another folder"
            raise ConfigError("folder", self._here, "is another process's at the moment", remedy) from error
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def open(self, experiment: Mapping[str, Any]) -> Iterator[None]:
        """In the block the folder is held, and its rounds have to be those of an experiment.

        Raises:
            Mistake: if another process has the folder.
        """
        with self.lock():
            sync_parents(self._here, self.filesystem)
            self._experiment = experiment
            yield

    def commit(self, state: ServerState, store: ClientStateStore, record: RoundRecord) -> None:
        """Keeps a round. When this returns it survives a crash and a loss of power; when it raises the round before does.

        Raises:
            OSError: as the disk does.
        """
        above, journal, disk = self._here / CHECKPOINTS, self._here / JOURNAL, self.filesystem
        if not above.is_dir():
            disk.mkdir(above)
            disk.sync(self._here)
        line, begun = to_json(record.to_dict()) + "\n", journal.exists()
        note = {"round": state.round, "offset": journal.stat().st_size if begun else 0, "line": line}
        note["experiment"] = dict(self._experiment)
        files = {
            STATE: wire.to_safetensors({**wire.flatten_state(state), **last_update_rounds(store)}),
            ROUND: json.dumps(note).encode(),
        }
        if changed := store.changed_in(state.round):
            files[MEMORIES] = wire.to_safetensors(wire.flatten_client_states(changed))
        older = sorted({*store.last_update.values()} - {state.round})
        self._digests = {r: self._digest(r) for r in older}
        own = {name: file_digest(content) for name, content in files.items()}
        files[MANIFEST] = make_manifest(own, self._digests)
        self._write(files, round_dir(self._here, state.round))
        self._digests |= {state.round: own[MEMORIES]} if changed else {}
        disk.append(journal, line.encode())
        disk.sync(journal)
        if not begun:
            disk.sync(self._here)
        self._prune()

    def load(self) -> Checkpoint | None:
        """The newest round whose manifest holds. Newer ones are set aside with a warning, and rounds.jsonl is what it was when
        that round had been recorded.

        Raises:
            Mistake: if there are rounds, but none that holds.
            Mistakes: if they are of another experiment than the folder was opened for.
            OSError: if the disk takes no repair.
        """
        saved, journal, bad = self._newest(self._experiment)
        for left in sorted((self._here / CHECKPOINTS).glob(".*")):  # of a commit or a removal that a crash cut short
            self.filesystem.remove(left)
        if saved is not None:
            after, memories = "is of a round after the last that holds", list_rounds(self._here, "memories")
            self._set_aside([*bad, *((path, after) for r, path in memories.items() if r > saved.state.round)])
            if not (self._here / JOURNAL).exists() or (self._here / JOURNAL).read_bytes() != journal:
                write_atomic(self._here / JOURNAL, journal, self.filesystem)
        return saved

    def peek(self, experiment: Mapping[str, Any]) -> Checkpoint | None:
        """What `load` would give for an experiment; nothing is changed in the folder. Raises as `load` does."""
        return self._newest(experiment)[0]

    def _newest(self, experiment: Mapping[str, Any]) -> tuple[Checkpoint | None, bytes, list[tuple[Path, str]]]:
        """The newest round whose manifest holds, what rounds.jsonl was then, and the newer commits with what is wrong."""
        bad: list[tuple[Path, str]] = []
        for round in reversed(committed_rounds(self._here)):
            try:
                state, store, note = read_checkpoint(self._here, round)
                journal, records = read_journal(self._here / JOURNAL, note)
                before = dict(note["experiment"])
            except UNREADABLE as error:
                bad.append((round_dir(self._here, round), " ".join(str(error).split())))
                continue
            raise_if_other_experiment(before, experiment, self._here)
            return Checkpoint(state, store, records), journal, bad
        if bad:
            what = "; ".join(f"{path.name}: {why}" for path, why in bad)
            raise ConfigError("resume", self._here, f"has no round that holds: {what}", "begin anew in another folder")
        return None, b"", bad

    def finish(self) -> None:
        """Keeps, of a run that has come to its end, the last round and those of `every`."""
        self._prune(1)

    def _digest(self, round: int) -> dict[str, Any]:
        """Size and SHA-256 of the memories that changed in a round; they are read once."""
        if round not in self._digests:
            self._digests[round] = file_digest(client_state_file(self._here, round).read_bytes())
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

    def _set_aside(self, bad: Sequence[tuple[Path, str]]) -> None:
        for path, why in bad:
            log.warning("%s does not hold and is set aside: %s", path, why)
            self.filesystem.rename(path, _free(path.with_name(f"bad-{path.name}")))

    def _prune(self, keep: int | None = None) -> None:
        """Removes the commits that are not kept; their memories stay while a kept one refers to them."""
        rounds, needed = committed_rounds(self._here), set()
        kept = replace(self.retention, keep=keep or self.retention.keep).select_rounds(rounds)
        for round in sorted(kept):
            path = round_dir(self._here, round)
            try:
                needed |= {int(r) for r in json.loads((path / MANIFEST).read_bytes())["memories"]}
            except UNREADABLE as error:  # an old one that was spoilt: what newer ones need of it stays
                log.warning("%s does not hold and is not kept: %s", path, error)
                kept.remove(round)
        for round, path in sorted(list_rounds(self._here, "memories").items()):
            self._shrink(path, round in needed)
        for round in rounds:
            if round not in kept:
                path = round_dir(self._here, round)
                if round in needed:
                    self.filesystem.rename(path, path.with_name(path.name.replace("round", "memories")))
                self._shrink(client_state_file(self._here, round).parent, round in needed)

    def _shrink(self, path: Path, needed: bool) -> None:
        """Leaves a folder's memories alone, or nothing of it."""
        if not needed:
            gone = path.with_name(f".{path.name}")
            self.filesystem.rename(path, gone)
            self.filesystem.remove(gone)
            return
        for other in sorted(path.iterdir()):
            if other.name != MEMORIES:
                self.filesystem.remove(other)


Checkpoints = DiskCheckpointer
"""Public alias."""


def _free(path: Path) -> Path:
    """A name that nothing has."""
    number = 0
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.partition('~')[0]}~{number}")
    return path
