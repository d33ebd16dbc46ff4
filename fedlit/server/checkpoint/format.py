"""The format of a checkpoint: its files and manifest, reading, verification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ServerState
from fedlit.core.serialization import from_safetensors, unflatten_state
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.server.checkpoint.client_states import read_client_states
from fedlit.server.checkpoint.folders import round_dir
from fedlit.server.checkpoint.segments import (
    CLIENT_STATES,
    LEDGER,
    SegmentLedger,
    SegmentReader,
    client_state_file,
    read_ledger,
)
from fedlit.server.client_store import ClientStateStore

SCHEMA = 3
STATE = "state.safetensors"
ROUND = "round.json"
MANIFEST = "manifest.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""Exceptions of reading a checkpoint that is damaged, in whatever way."""


def read_checkpoint(folder: Path, round: int) -> tuple[ServerState, ClientStateStore, dict[str, Any]]:
    """Verify a round's files and client states, and read its checkpoint.

    Client states are not read into memory.

    Returns:
        The server state, the store of client states, and the content of round.json.

    Raises:
        One of UNREADABLE: if a file is missing, or is not what a run writes, or differs from the manifest or the ledger.
    """
    place = round_dir(folder, round)
    manifest = json.loads((place / MANIFEST).read_bytes())
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"has schema {manifest['schema']}, and this fedlit reads schema {SCHEMA}")
    files = {name: _verified(place / name, manifest["files"][name]) for name in (STATE, ROUND)}
    flat, note = from_safetensors(files[STATE]), json.loads(files[ROUND])
    if note["round"] != round:
        raise ValueError(f"is of round {note['round']}")
    ledger = SegmentLedger(read_ledger(folder, note["clients"]))
    if manifest["files"].get(CLIENT_STATES) != ledger.segments.get(round):
        raise ValueError(f"{CLIENT_STATES} differs from the ledger of client states")
    for segment, digest in ledger.segments.items():
        path = client_state_file(folder, segment)
        _verify(path, digest)
        read_client_states(path, [])
    return unflatten_state(flat, round), ClientStateStore(stored=SegmentReader(folder, ledger)), note


def read_journal(journal: Path, note: Mapping[str, Any]) -> tuple[bytes, tuple[Mapping[str, Any], ...]]:
    """Rebuild rounds.jsonl as it was after a checkpoint's round.

    Args:
        journal: path of rounds.jsonl.
        note: content of the checkpoint's round.json.

    Returns:
        The bytes of the file, and its records.

    Raises:
        ValueError: if an earlier record is missing.
    """
    before = journal.read_bytes()[: note["offset"]] if journal.exists() else b""
    if len(before) < note["offset"]:
        raise ValueError(f"{JOURNAL} is shorter than when the round was recorded")
    content = before + note["line"].encode()
    records = tuple(json.loads(record) for record in content.splitlines())
    if [record["round"] for record in records] != [*range(1, note["round"] + 1)]:
        raise ValueError(f"{JOURNAL} does not have each earlier round once")
    return content, records


def raise_if_other_experiment(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise ConfigErrors for each value that differs between two fingerprints.

    A value that only one of them has is not compared.

    Args:
        before: fingerprint in the folder's checkpoints.
        now: fingerprint of the experiment that resumes.
        folder: the run's folder.
    """
    errors = [
        ConfigError(
            key, value, f"was {before[key]} in the checkpoints of {folder}", "use that value, or another folder"
        )
        for key, value in now.items()
        if key in before and before[key] != value
    ]
    if errors:
        raise ConfigErrors(errors)


def raise_if_records_alone(folder: Path) -> None:
    """Raise ConfigError if a folder without checkpoints has records of rounds.

    A run that began there would append its own records to them.
    """
    names = (JOURNAL, f"{CHECKPOINTS}/{LEDGER}")
    if found := [name for name in names if (folder / name).is_file() and (folder / name).stat().st_size]:
        problem = f"has no checkpoint, but records of finished rounds in {' and '.join(found)}"
        hint = "start a run in another folder, or put the checkpoints back"
        raise ConfigError("resume", folder, problem, hint)


def _verified(path: Path, digest: Mapping[str, Any]) -> bytes:
    content = path.read_bytes()
    if file_digest(content) != digest:
        raise ValueError(f"{path.name} differs from the manifest")
    return content


def _verify(path: Path, digest: Mapping[str, Any]) -> None:
    """Raise ValueError if a file of any size differs from its digest."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if {"size": file.tell(), "sha256": sha256} != digest:
            raise ValueError(f"{path.name} differs from the manifest")


def file_digest(content: bytes | bytearray) -> dict[str, Any]:
    """Size and SHA-256 of a file's content."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def make_manifest(files: Mapping[str, Any]) -> bytes:
    """The manifest of a checkpoint.

    Args:
        files: digest of each file.
    """
    return json.dumps({"schema": SCHEMA, "files": files}).encode()
