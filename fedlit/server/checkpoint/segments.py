"""Client states on disk: segments, and their ledger.

    checkpoints/round-000012/memories.safetensors     the segment of a round: the client states that it changed
    checkpoints/memories-000007/memories.safetensors  the same, of a round whose checkpoint was removed
    checkpoints/clients.jsonl                         the ledger: one line for each round that changed a client state

A line has the round, the size and SHA-256 of its segment, the clients with a new state, and those whose state was removed. So
a commit writes no more than the round has changed.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlit.core.tensors import Groups
from fedlit.runs.layout import CHECKPOINTS
from fedlit.server.checkpoint.client_states import read_client_states
from fedlit.server.checkpoint.folders import round_dir

CLIENT_STATES = "memories.safetensors"
LEDGER = "clients.jsonl"


def client_state_file(folder: Path, round: int) -> Path:
    """File with the client states that a round changed."""
    older = folder / CHECKPOINTS / f"memories-{round:06d}"
    return (older if older.is_dir() else round_dir(folder, round)) / CLIENT_STATES


class SegmentLedger:
    """The segment of each client's state, after the lines of a ledger.

    Args:
        content: the bytes of the ledger.

    Attributes:
        last_update: the round, counted from 1, that stored each client's state.
        segments: the digest of each segment, by round, while a client has a state in it.
        unused: the round in which each further segment lost its last client.
    """

    def __init__(self, content: bytes = b"") -> None:
        self.last_update: dict[int, int] = {}
        self.segments: dict[int, Mapping[str, Any]] = {}
        self.unused: dict[int, int] = {}
        self._num_clients: dict[int, int] = {}
        self._nbytes, self._hash = 0, hashlib.sha256()
        for line in content.splitlines(keepends=True):
            self.append(line)

    @staticmethod
    def line(round: int, digest: Mapping[str, Any], changed: Iterable[int], removed: Iterable[int]) -> bytes:
        """The line of a round; empty if no client state changed.

        Args:
            round: the round, counted from 1.
            digest: digest of its segment; empty if there is none.
            changed: clients with a new state.
            removed: clients that have no state any more.
        """
        clients, without = sorted(changed), sorted(removed)
        if not clients and not without:
            return b""
        return json.dumps({"round": round, **digest, "clients": clients, "removed": without}).encode() + b"\n"

    def note(self, line: bytes) -> dict[str, Any]:
        """The place of a further line, and the ledger's SHA-256 with it."""
        digest = self._hash.copy()
        digest.update(line)
        return {"offset": self._nbytes, "line": line.decode(), "sha256": digest.hexdigest()}

    def append(self, line: bytes) -> None:
        """Add the line of the next round."""
        self._nbytes += len(line)
        self._hash.update(line)
        entry = json.loads(line) if line else {"round": 0, "clients": [], "removed": []}
        round = int(entry["round"])
        if entry["clients"]:
            self.segments[round] = {name: entry[name] for name in ("size", "sha256")}
            self._num_clients[round] = len(entry["clients"])
        for client in (*entry["clients"], *entry["removed"]):
            before = self.last_update.pop(client, None)
            if before is not None:
                self._release(before, round)
        self.last_update.update(dict.fromkeys(entry["clients"], round))

    def _release(self, segment: int, round: int) -> None:
        self._num_clients[segment] -= 1
        if not self._num_clients[segment]:
            del self._num_clients[segment], self.segments[segment]
            self.unused[segment] = round

    def forget_unused(self, kept: Collection[int]) -> None:
        """Forget all unused segments but some.

        Otherwise a long run would remember every segment.
        """
        self.unused = {segment: round for segment, round in self.unused.items() if segment in kept}

    def needs(self, segment: int, rounds: Sequence[int]) -> bool:
        """Return True if a checkpoint of some rounds needs a segment.

        Args:
            segment: the round of the segment.
            rounds: rounds of checkpoints, ascending.
        """
        place = bisect_left(rounds, segment)
        return place < len(rounds) and (segment in self.segments or rounds[place] < self.unused.get(segment, 0))


class SegmentReader:
    """The client states that a run's folder has: see `StoredClientStates`.

    Args:
        folder: the run's folder.
        ledger: the ledger up to a round.
    """

    def __init__(self, folder: Path, ledger: SegmentLedger) -> None:
        self.folder, self.ledger = folder, ledger
        self.last_update: Mapping[int, int] = ledger.last_update

    def read(self, clients: Iterable[int]) -> dict[int, Groups]:
        """The states of clients that all have one."""
        by_round: dict[int, list[int]] = {}
        for client in clients:
            by_round.setdefault(self.last_update[client], []).append(client)
        states: dict[int, Groups] = {}
        for round, part in by_round.items():
            states |= read_client_states(client_state_file(self.folder, round), part)
        return states


def read_ledger(folder: Path, note: Mapping[str, Any]) -> bytes:
    """Rebuild the ledger as it was after a checkpoint's round.

    Args:
        folder: the run's folder.
        note: see `SegmentLedger.note`.

    Raises:
        ValueError: if an earlier line is missing or was changed.
    """
    path = folder / CHECKPOINTS / LEDGER
    before = path.read_bytes()[: note["offset"]] if path.exists() else b""
    content = before + note["line"].encode()
    if len(before) != note["offset"] or hashlib.sha256(content).hexdigest() != note["sha256"]:
        raise ValueError(f"{LEDGER} is not as it was when the round was recorded")
    return content
