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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlit import wire
from fedlit.commits import (
    FOLDER,
    MANIFEST,
    MEMORIES,
    ROUND,
    STATE,
    Saved,
    committed,
    manifest_of,
    measured,
    numbered,
    place,
    read,
    segment,
    since_of,
)
from fedlit.disk import Disk, LocalDisk, replace_file
from fedlit.jsonl import json_line
from fedlit.messages import State
from fedlit.mistakes import Mistake, refuse, whole
from fedlit.record import Round
from fedlit.store import ClientStore

log = logging.getLogger("fedlit")

JOURNAL = "rounds.jsonl"
BAD = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What reading a commit raises that is not what it was, whatever stands there instead."""


@dataclass(frozen=True)
class Keeping:
    """Which commits are kept.

    Args:
        keep: so many of the newest, >= 1.
        every: and each of a round that this divides, >= 1; None for none.
    """

    keep: int = 2
    every: int | None = None

    def __post_init__(self) -> None:
        refuse(whole("keep", self.keep), whole("every", 1 if self.every is None else self.every))

    def kept(self, rounds: list[int]) -> set[int]:
        """Those of the rounds, ascending, whose commits are kept."""
        return {*rounds[-self.keep :], *(r for r in rounds if self.every is not None and r % self.every == 0)}


@dataclass
class Checkpoints:
    """Commits in a run's folder, which is there.

    Args:
        folder: of the run.
        keeping: which are kept.
        disk: where they are written.
    """

    folder: Path
    keeping: Keeping = field(default_factory=Keeping)
    disk: Disk = field(default_factory=LocalDisk)
    _digests: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)

    def commit(self, state: State, store: ClientStore, record: Round) -> None:
        """Keeps a round. When this returns it survives a crash and a loss of power; when it raises the round before does.

        Raises:
            OSError: as the disk does.
        """
        above, journal, disk = self.folder / FOLDER, self.folder / JOURNAL, self.disk
        if not above.is_dir():
            disk.mkdir(above)
            disk.sync(self.folder)
        line, begun = json_line(record.record()) + "\n", journal.exists()
        note = {"round": state.round, "offset": journal.stat().st_size if begun else 0, "line": line}
        files = {STATE: wire.freeze({**wire.freeze_state(state), **since_of(store)}), ROUND: json.dumps(note).encode()}
        if changed := store.of_round(state.round):
            files[MEMORIES] = wire.freeze(wire.freeze_memories(changed))
        older = sorted({*store.since.values()} - {state.round})
        self._digests = {r: self._digest(r) for r in older}
        own = {name: measured(content) for name, content in files.items()}
        files[MANIFEST] = manifest_of(own, self._digests)
        self._write(files, place(self.folder, state.round))
        self._digests |= {state.round: own[MEMORIES]} if changed else {}
        disk.append(journal, line.encode())
        disk.sync(journal)
        if not begun:
            disk.sync(self.folder)
        self._prune()

    def load(self) -> Saved | None:
        """The newest round whose manifest holds. Newer ones are set aside with a warning, and rounds.jsonl is what it was when
        that round had been recorded.

        Raises:
            Mistake: if there are rounds, but none that holds.
            OSError: if the disk takes no repair.
        """
        for left in sorted((self.folder / FOLDER).glob(".*")):  # of a commit or a removal that a crash cut short
            self.disk.remove(left)
        bad: list[tuple[Path, str]] = []
        for round in reversed(committed(self.folder)):
            try:
                state, store, note = read(self.folder, round)
                journal, records = self._recorded(note)
            except BAD as error:
                bad.append((place(self.folder, round), " ".join(str(error).split())))
                continue
            after = "is of a round after the last that holds"
            bad += [(path, after) for number, path in numbered(self.folder, "memories").items() if number > round]
            self._set_aside(bad)
            if not (self.folder / JOURNAL).exists() or (self.folder / JOURNAL).read_bytes() != journal:
                replace_file(self.folder / JOURNAL, journal, self.disk)
            return Saved(state, store, records)
        if bad:
            what = "; ".join(f"{path.name}: {why}" for path, why in bad)
            raise Mistake("resume", self.folder, f"has no round that holds: {what}", "begin anew in another folder")
        return None

    def finish(self) -> None:
        """Keeps, of a run that has come to its end, the last round and those of `every`."""
        self._prune(1)

    def _digest(self, round: int) -> dict[str, Any]:
        """Size and SHA-256 of the memories that changed in a round; they are read once."""
        if round not in self._digests:
            self._digests[round] = measured(segment(self.folder, round).read_bytes())
        return self._digests[round]

    def _write(self, files: Mapping[str, bytes], place: Path) -> None:
        disk, partial = self.disk, place.with_name(f".{place.name}")
        disk.remove(partial)
        disk.mkdir(partial)
        for name, content in files.items():
            disk.write(partial / name, content)
            disk.sync(partial / name)
        disk.sync(partial)
        disk.rename(partial, place)
        disk.sync(place.parent)

    def _recorded(self, note: Mapping[str, Any]) -> tuple[bytes, tuple[Mapping[str, Any], ...]]:
        """What rounds.jsonl was when a commit's round had been recorded, and its records. Raises ValueError if it is lost."""
        journal = self.folder / JOURNAL
        before = journal.read_bytes()[: note["offset"]] if journal.exists() else b""
        if len(before) < note["offset"]:
            raise ValueError(f"{JOURNAL} is shorter than when the round was recorded")
        whole = before + note["line"].encode()
        records = tuple(json.loads(record) for record in whole.splitlines())
        if [record["round"] for record in records] != [*range(1, note["round"] + 1)]:
            raise ValueError(f"{JOURNAL} does not have the rounds before, each once")
        return whole, records

    def _set_aside(self, bad: Sequence[tuple[Path, str]]) -> None:
        for path, why in bad:
            log.warning("%s does not hold and is set aside: %s", path, why)
            self.disk.rename(path, _free(path.with_name(f"bad-{path.name}")))

    def _prune(self, keep: int | None = None) -> None:
        """Removes the commits that are not kept; their memories stay while a kept one refers to them."""
        rounds, needed = committed(self.folder), set()
        kept = replace(self.keeping, keep=keep or self.keeping.keep).kept(rounds)
        for round in sorted(kept):
            path = place(self.folder, round)
            try:
                needed |= {int(r) for r in json.loads((path / MANIFEST).read_bytes())["memories"]}
            except BAD as error:  # an old one that was spoilt: what newer ones need of it stays
                log.warning("%s does not hold and is not kept: %s", path, error)
                kept.remove(round)
        for round, path in sorted(numbered(self.folder, "memories").items()):
            self._shrink(path, round in needed)
        for round in rounds:
            if round not in kept:
                path = place(self.folder, round)
                if round in needed:
                    self.disk.rename(path, path.with_name(path.name.replace("round", "memories")))
                self._shrink(segment(self.folder, round).parent, round in needed)

    def _shrink(self, path: Path, needed: bool) -> None:
        """Leaves a folder's memories alone, or nothing of it."""
        if not needed:
            gone = path.with_name(f".{path.name}")
            self.disk.rename(path, gone)
            self.disk.remove(gone)
            return
        for other in sorted(path.iterdir()):
            if other.name != MEMORIES:
                self.disk.remove(other)


def _free(path: Path) -> Path:
    """A name that nothing has."""
    number = 0
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.partition('~')[0]}~{number}")
    return path
