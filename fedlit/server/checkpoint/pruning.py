"""The removal of old checkpoints and of unused client states."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from pathlib import Path

from fedlit.core.files import Filesystem
from fedlit.server.checkpoint.checkpointer import Retention
from fedlit.server.checkpoint.folders import committed_rounds, list_rounds, round_dir
from fedlit.server.checkpoint.format import MANIFEST, UNREADABLE
from fedlit.server.checkpoint.segments import CLIENT_STATES, SegmentLedger, client_state_file

log = logging.getLogger("fedlit")


class CheckpointFolders:
    """The checkpoint folders of a run.

    They are listed once. So the cost of a round does not grow with their number.

    Args:
        folder: the run's folder.
        filesystem: renames and removes folders.
        ledger: the segments of client states; the caller adds each round to it.
    """

    def __init__(self, folder: Path, filesystem: Filesystem, ledger: SegmentLedger) -> None:
        self._folder, self._filesystem, self._ledger = folder, filesystem, ledger
        rounds = committed_rounds(folder)
        self._rounds = [round for round in rounds if self._has_manifest(round)]
        self._damaged = [round for round in rounds if round not in self._rounds]
        self._unchecked = set(list_rounds(folder, "memories"))  # an interrupted removal may have left any of them
        ledger.forget_unused({*rounds, *self._unchecked})

    def add(self, round: int) -> None:
        """Follow the checkpoint of a new round."""
        place = bisect_left(self._rounds, round)
        if self._rounds[place : place + 1] != [round]:
            self._rounds.insert(place, round)

    def prune(self, retention: Retention) -> None:
        """Remove old checkpoints, but no client states that a kept one needs."""
        selected = retention.select_rounds(self._rounds)
        kept = sorted(selected)
        for round in [*self._damaged, *self._rounds]:
            if round not in selected:
                is_needed, path = self._ledger.needs(round, kept), round_dir(self._folder, round)
                if is_needed:
                    self._filesystem.rename(path, path.with_name(path.name.replace("round", "memories")))
                self._shrink(round, is_needed)
        self._rounds, self._damaged = kept, []
        for segment in sorted({*self._unchecked, *self._ledger.unused} - selected):  # last: a round may have needed it
            is_needed = self._ledger.needs(segment, kept)
            if not is_needed or segment in self._unchecked:
                self._shrink(segment, is_needed)
        self._unchecked = set()
        self._ledger.forget_unused(
            {segment for segment in self._ledger.unused if self._may_go(segment, selected, retention)}
        )

    def _may_go(self, segment: int, kept: set[int], retention: Retention) -> bool:
        """Return True if an unused segment can be removed later."""
        if retention.every is not None:
            pinning = -(-segment // retention.every) * retention.every  # its checkpoint is never removed
            if pinning in kept and pinning < self._ledger.unused[segment]:
                return False
        return segment in kept or self._ledger.needs(segment, self._rounds)

    def _shrink(self, round: int, is_needed: bool) -> None:
        """Keep only a folder's client states, or remove the folder."""
        path = client_state_file(self._folder, round).parent
        if is_needed:
            for other in sorted(path.iterdir()):
                if other.name != CLIENT_STATES:
                    self._filesystem.remove(other)
        elif path.is_dir():
            removed = path.with_name(f".{path.name}")
            self._filesystem.rename(path, removed)
            self._filesystem.remove(removed)

    def _has_manifest(self, round: int) -> bool:
        """Return False, with a warning, for a checkpoint without a valid manifest."""
        path = round_dir(self._folder, round)
        try:
            json.loads((path / MANIFEST).read_bytes())["files"].items()
        except UNREADABLE as error:  # an old damaged one: client states that newer ones need stay
            log.warning("%s is not valid and is removed: %s", path, error)
            return False
        return True
