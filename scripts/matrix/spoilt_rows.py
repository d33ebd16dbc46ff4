"""What may befall the checkpoints of a run that has ended."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedlit.core.errors import ConfigError
from fedlit.runs.layout import CHECKPOINTS
from fedlit.server.checkpoint.disk import JOURNAL
from fedlit.server.checkpoint.format import MANIFEST, MEMORIES, ROUND, STATE, file_digest, round_dir
from matrix.commit_rows import flip, unbroken, until
from matrix.lab import Broken, Rows, must, run, same

ROWS = Rows()


def _spoilt(folder: Path, spoil: Callable[[Path], Any]) -> str:
    for name in (STATE, MEMORIES, ROUND, MANIFEST):
        here = until(folder / name, 3)
        spoil(round_dir(here, 3) / name)
        same(run(here), unbroken(), name)
        must((here / CHECKPOINTS / "bad-round-000003").is_dir(), f"{name}: the bad round is not set aside")
    return "each of 4 files"


@ROWS("truncated file in the newest checkpoint", "the round before, same bits")
def truncated(folder: Path) -> str:
    return _spoilt(folder, lambda path: os.truncate(path, path.stat().st_size - 5))


@ROWS("bit-flipped file in the newest checkpoint", "the round before, same bits")
def flipped(folder: Path) -> str:
    return _spoilt(folder, flip)


@ROWS("missing file in the newest checkpoint", "the round before, same bits")
def missing(folder: Path) -> str:
    return _spoilt(folder, Path.unlink)


@ROWS("all checkpoints bad", "refused with reasons, nothing changed")
def all_bad(folder: Path) -> str:
    here = until(folder / "run", 3)
    for round in (2, 3):
        flip(round_dir(here, round) / STATE)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    try:
        run(here)
    except ConfigError as mistake:
        must("round-000003" in str(mistake) and "round-000002" in str(mistake), f"said {mistake}")
    else:
        raise Broken("the run went on")
    must({path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before, "files were changed")
    return ""


@ROWS("rounds.jsonl longer, torn or gone", "is what it was, same bits")
def journal(folder: Path) -> str:
    for name, spoil in {
        "longer": lambda path: path.write_bytes(path.read_bytes() + b'{"round": 3}\n{"rou'),
        "torn": lambda path: os.truncate(path, path.stat().st_size - 9),
    }.items():
        here = until(folder / name, 2)
        spoil(here / JOURNAL)
        same(run(here), unbroken(), name)
    return ""


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {_Evil.mark}",)

    mark = ""


@ROWS("a pickle offered as a checkpoint", "refused, never executed")
def pickled(folder: Path) -> str:
    _Evil.mark = str(folder / "executed")
    for name in (STATE, MEMORIES, ROUND, MANIFEST):
        here = until(folder / name, 3)
        (round_dir(here, 3) / name).write_bytes(pickle.dumps(_Evil()))
        if name != MANIFEST:
            manifest = json.loads((round_dir(here, 3) / MANIFEST).read_bytes())
            manifest["files"][name] = file_digest(pickle.dumps(_Evil()))
            (round_dir(here, 3) / MANIFEST).write_text(json.dumps(manifest))
        same(run(here), unbroken(), name)
        must(not (folder / "executed").exists(), f"{name} was executed")
    return "with a manifest that fits"


@ROWS("a checkpoint of another schema", "refused with its number")
def schema(folder: Path) -> str:
    here = until(folder / "run", 1)
    manifest = json.loads((round_dir(here, 1) / MANIFEST).read_bytes())
    (round_dir(here, 1) / MANIFEST).write_text(json.dumps({**manifest, "schema": 99}))
    try:
        run(here)
    except ConfigError as mistake:
        must("schema 99" in str(mistake), f"said {mistake}")
        return ""
    raise Broken("the run went on")
