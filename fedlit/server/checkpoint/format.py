"""What a commit is: what a run goes on from, where its files lie, and whether they are what its manifest says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedlit.core import serialization as wire
from fedlit.core.errors import ConfigError, ConfigErrors
from fedlit.core.messages import ServerState
from fedlit.runs.layout import CHECKPOINTS, JOURNAL
from fedlit.server.client_store import ClientStateStore

SCHEMA = 2
STATE, MEMORIES, ROUND, MANIFEST = "state.safetensors", "memories.safetensors", "round.json", "manifest.json"


def round_dir(folder: Path, round: int) -> Path:
    """Where the commit of a round is, in a run's folder."""
    return folder / CHECKPOINTS / f"round-{round:06d}"


def list_rounds(folder: Path, kind: str) -> dict[int, Path]:
    """What is kept of rounds in a run's folder, commits (`round`) or what is left of them (`memories`); names that are not
    ours are left out."""
    found = ((re.fullmatch(rf"{kind}-(\d+)", path.name), path) for path in (folder / CHECKPOINTS).glob(f"{kind}-*"))
    return {int(match[1]): path for match, path in found if match}


def committed_rounds(folder: Path) -> list[int]:
    """Rounds of which a commit is in a run's folder, whole or not, ascending."""
    return sorted(list_rounds(folder, "round"))


def client_state_file(folder: Path, round: int) -> Path:
    """Where the memories are that changed in a round."""
    older = folder / CHECKPOINTS / f"memories-{round:06d}"
    return (older if older.is_dir() else round_dir(folder, round)) / MEMORIES


def read_checkpoint(folder: Path, round: int) -> tuple[ServerState, ClientStateStore, dict[str, Any]]:
    """A round's state, the clients' memories after it, and round.json, once the manifest was found to hold.

    Raises:
        OSError, ValueError: if a file is missing, or is not what the manifest says.
    """
    here = round_dir(folder, round)
    manifest = json.loads((here / MANIFEST).read_bytes())
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"is of schema {manifest['schema']}, and this fedlit reads schema {SCHEMA}")
    named = [name for name in (STATE, ROUND, MEMORIES) if name in manifest["files"]]  # and not what else it may name
    files = {name: _checked(here / name, manifest["files"][name]) for name in named}
    flat, note = wire.from_safetensors(files[STATE]), json.loads(files[ROUND])
    if note["round"] != round:
        raise ValueError(f"is of round {note['round']}")
    clients, rounds = (flat["since", name, ""].tolist() for name in ("clients", "rounds"))
    since = dict(zip(clients, rounds, strict=True))
    segments = {
        int(r): _checked(client_state_file(folder, int(r)), wanted) for r, wanted in manifest["memories"].items()
    }
    if MEMORIES in files:
        segments[round] = files[MEMORIES]
    memories = {r: wire.unflatten_client_states(wire.from_safetensors(content)) for r, content in segments.items()}
    store = ClientStateStore({client: memories[r][client] for client, r in since.items()}, since)
    return wire.unflatten_state(flat, round), store, note


def read_journal(journal: Path, note: Mapping[str, Any]) -> tuple[bytes, tuple[Mapping[str, Any], ...]]:
    """What rounds.jsonl was when a commit's round had been recorded, and its records. Raises ValueError if it is lost."""
    before = journal.read_bytes()[: note["offset"]] if journal.exists() else b""
    if len(before) < note["offset"]:
        raise ValueError(f"{JOURNAL} is shorter than when the round was recorded")
    whole = before + note["line"].encode()
    records = tuple(json.loads(record) for record in whole.splitlines())
    if [record["round"] for record in records] != [*range(1, note["round"] + 1)]:
        raise ValueError(f"{JOURNAL} does not have the rounds before, each once")
    return whole, records


def raise_if_other_experiment(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raises Mistakes with every value of an experiment that is not what it was in a folder's commits; a value that one of
    the two does not have is not compared."""
    found = [
        ConfigError(key, value, f"was {before[key]} in the rounds that {folder} has", "take that, or another folder")
        for key, value in now.items()
        if key in before and before[key] != value
    ]
    if found:
        raise ConfigErrors(found)


def _checked(path: Path, wanted: Mapping[str, Any]) -> bytes:
    content = path.read_bytes()
    if file_digest(content) != wanted:
        raise ValueError(f"{path.name} is not what the manifest says")
    return content


def file_digest(content: bytes) -> dict[str, Any]:
    """A file's size and digest."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def make_manifest(files: Mapping[str, Any], memories: Mapping[int, Any]) -> bytes:
    """The manifest of a commit's files, measured, and of older memories by round."""
    older = {str(round): measured for round, measured in memories.items()}
    return json.dumps({"schema": SCHEMA, "files": files, "memories": older}).encode()


def last_update_rounds(store: ClientStateStore) -> dict[tuple[str, ...], torch.Tensor]:
    """After which round each client remembered what it does."""
    clients, rounds = torch.tensor([*store.last_update]).long(), torch.tensor([*store.last_update.values()]).long()
    return {("since", "clients", ""): clients, ("since", "rounds", ""): rounds}
