"""The format of a checkpoint: its files and manifest, reading, verification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ServerState
from fedlit.core.serialization import from_safetensors, unflatten_client_states, unflatten_state
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.server.checkpoint.folders import round_dir
from fedlit.server.client_store import ClientStateStore

SCHEMA = 2
STATE = "state.safetensors"
CLIENT_STATES = "memories.safetensors"
ROUND = "round.json"
MANIFEST = "manifest.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""Exceptions of reading a checkpoint that is damaged, in whatever way."""


def client_state_file(folder: Path, round: int) -> Path:
    """File with the client states that a round changed."""
    older = folder / CHECKPOINTS / f"memories-{round:06d}"
    return (older if older.is_dir() else round_dir(folder, round)) / CLIENT_STATES


def read_checkpoint(folder: Path, round: int) -> tuple[ServerState, ClientStateStore, dict[str, Any]]:
    """Verify a round's manifest and read its checkpoint.

    Returns:
        The server state, the store of client states, and the content of round.json.

    Raises:
        One of UNREADABLE: if a file is missing, or is not what a run writes, or differs from the manifest.
    """
    place = round_dir(folder, round)
    manifest = json.loads((place / MANIFEST).read_bytes())
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"has schema {manifest['schema']}, and this fedlit reads schema {SCHEMA}")
    names = [name for name in (STATE, ROUND, CLIENT_STATES) if name in manifest["files"]]  # no other that it may list
    files = {name: _verified(place / name, manifest["files"][name]) for name in names}
    flat, note = from_safetensors(files[STATE]), json.loads(files[ROUND])
    if note["round"] != round:
        raise ValueError(f"is of round {note['round']}")
    clients, rounds = (flat["since", name, ""].tolist() for name in ("clients", "rounds"))
    last_update = dict(zip(clients, rounds, strict=True))
    contents = {int(r): _verified(client_state_file(folder, int(r)), d) for r, d in manifest["memories"].items()}
    if CLIENT_STATES in files:
        contents[round] = files[CLIENT_STATES]
    states = {r: unflatten_client_states(from_safetensors(content)) for r, content in contents.items()}
    store = ClientStateStore({client: states[r][client] for client, r in last_update.items()}, last_update)
    return unflatten_state(flat, round), store, note


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


def _verified(path: Path, digest: Mapping[str, Any]) -> bytes:
    content = path.read_bytes()
    if file_digest(content) != digest:
        raise ValueError(f"{path.name} differs from the manifest")
    return content


def file_digest(content: bytes) -> dict[str, Any]:
    """Size and SHA-256 of a file's content."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def make_manifest(files: Mapping[str, Any], client_states: Mapping[int, Any]) -> bytes:
    """The manifest of a checkpoint.

    Args:
        files: digest of each file.
        client_states: digest of the client states of each older round that some client still has.
    """
    older = {str(round): digest for round, digest in client_states.items()}
    return json.dumps({"schema": SCHEMA, "files": files, "memories": older}).encode()


def last_update_rounds(store: ClientStateStore) -> dict[tuple[str, ...], torch.Tensor]:
    """The round that last updated each client's state, as named tensors."""
    clients = torch.tensor([*store.last_update]).long()
    rounds = torch.tensor([*store.last_update.values()]).long()
    return {("since", "clients", ""): clients, ("since", "rounds", ""): rounds}
